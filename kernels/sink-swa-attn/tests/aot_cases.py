"""What is compiled ahead of time for the test of registers and shared memory: names, and functions that launch kernels."""

from importlib import import_module
from typing import Any

import torch

BATCH, HEADS, KV_HEADS, LENGTH, WINDOW = 2, 16, 2, 256, 128


def inputs(head_dims, dtype, queries=LENGTH):
    d, dv = head_dims
    shapes = [(BATCH, HEADS, queries, d), (BATCH, KV_HEADS, LENGTH, d), (BATCH, KV_HEADS, LENGTH, dv)]
    return [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in shapes] + [torch.zeros(HEADS)]


def cases(package, capability, complete):
    """`complete`: every head dim with every type, with and without a window; otherwise a part that has each of them."""
    name = package.__name__
    attention: Any = import_module(f"{name}.triton_attention")
    head_dims = import_module(f"{name}._shared.tiles").HEAD_DIMS
    attention.is_hopper = lambda device: capability == 90
    start = torch.zeros(BATCH, dtype=torch.int32)

    def train(dims, dtype, window):
        return lambda: attention.SinkSWAFunction.apply(*inputs(dims, dtype), window, 0.1, start).sum().backward()

    def decode(dims, dtype, queries, **options):
        return lambda: attention.forward(*inputs(dims, dtype, queries), None, 0.1, None, **options)

    for place, dims in enumerate(head_dims):
        for dtype in (torch.bfloat16, torch.float32):
            for window in (WINDOW, None):
                part = window == (WINDOW if place % 2 == 0 else None) and (dtype == torch.bfloat16 or place in (1, 4))
                if complete or part:
                    yield f"train {dims} {dtype} window {window}", train(dims, dtype, window)
            if complete or dims == (192, 128):
                yield f"decode {dims} {dtype}", decode(dims, dtype, 1, splits=4)
                yield f"verify drafts {dims} {dtype}", decode(dims, dtype, 4)
