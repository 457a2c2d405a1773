"""What is compiled ahead of time for the test of registers and shared memory: names, and functions that launch kernels."""

from importlib import import_module
from itertools import product
from typing import Any

import torch

BATCH, KV_HEADS, LENGTH, TOPK = 2, 2, 256, 4


def inputs(head_dims, dtype, group, queries=LENGTH):
    d, dv = head_dims
    heads = group * KV_HEADS
    shapes = [(BATCH, heads, queries, d), (BATCH, KV_HEADS, LENGTH, d), (BATCH, KV_HEADS, LENGTH, dv)]
    return [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def cases(package, capability, complete):
    """`complete`: every head dim with every type, group and block size; otherwise a part that has each of them."""
    name = package.__name__
    full: Any = import_module(f"{name}.triton_full_forward")
    sparse: Any = import_module(f"{name}.triton_sparse_forward")
    attention: Any = import_module(f"{name}.triton_attention")
    head_dims = import_module(f"{name}._shared.tiles").HEAD_DIMS
    for part in ("triton_attention", "triton_full_forward", "triton_sparse_backward"):
        module: Any = import_module(f"{name}.{part}")
        module.is_hopper = lambda device: capability == 90
    start = torch.zeros(BATCH, dtype=torch.int32)

    def train_full(dims, dtype, group, block_size):
        selection = (block_size, TOPK, 1, 1)

        def launch():
            out, _, _ = attention.FullAttention.apply(*inputs(dims, dtype, group), 0.1, start, 0, selection)
            out.sum().backward()

        return launch

    def train_sparse(dims, dtype, group, block_size):
        idx = torch.zeros((BATCH, KV_HEADS, LENGTH, TOPK), dtype=torch.int32)
        sinks = torch.zeros(group * KV_HEADS)

        def launch():
            q, k, v = inputs(dims, dtype, group)
            attention.BlockSparseAttention.apply(q, k, v, sinks, idx, 0.1, start, 0, block_size)[0].sum().backward()

        return launch

    def decode(dims, dtype, group, block_size):
        idx = torch.zeros((BATCH, KV_HEADS, 1, TOPK), dtype=torch.int32)
        selection = (block_size, TOPK)

        def launch():
            q, k, v = inputs(dims, dtype, group, queries=1)
            full.full_forward(q, k, v, 0.1, None, LENGTH - 1, selection, splits=4)
            sparse.sparse_forward(q, k, v, None, idx, 0.1, None, LENGTH - 1, block_size, splits=2)

        return launch

    def without_selection(dims, dtype, group):
        return lambda: full.full_forward(*inputs(dims, dtype, group), 0.1, start, 0, None)

    # Heads of a group and block size; the first two are the paper's.
    geometries = [(16, 64), (4, 64), (4, 16), (16, 128), (1, 64)]
    chosen = [(dims, torch.bfloat16, geometry) for dims, geometry in zip(head_dims, geometries, strict=True)]
    chosen += [((128, 128), torch.bfloat16, geometry) for geometry in geometries[:2]]
    chosen += [((192, 128), torch.float32, geometries[0])]
    every = product(head_dims, (torch.bfloat16, torch.float32), geometries)
    for dims, dtype, (group, block_size) in every if complete else chosen:
        shape = f"{dims} {dtype} group {group} blocks of {block_size}"
        yield f"full {shape}", train_full(dims, dtype, group, block_size)
        yield f"sparse {shape}", train_sparse(dims, dtype, group, block_size)
        if complete or dims == (128, 128):
            yield f"decode {shape}", decode(dims, dtype, group, block_size)
            yield f"full without selection {shape}", without_selection(dims, dtype, group)
