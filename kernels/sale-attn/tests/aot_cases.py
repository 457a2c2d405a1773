"""What is compiled ahead of time for the test of registers and shared memory: names, and functions that launch kernels."""

from importlib import import_module
from itertools import product
from typing import Any

import torch

BATCH, KV_HEADS, LENGTH = 2, 2, 512


def cases(package, capability, complete):
    """`complete`: every head dim with every type, tiling and way to share scales; otherwise a part that has each of them."""
    name = package.__name__
    attention: Any = import_module(f"{name}.triton_attention")
    head_dims = import_module(f"{name}._shared.tiles").HEAD_DIMS

    def prefill(dims, dtype, group, quant, block_q, smooth):
        tiling = package.Tiling(block_q=block_q)

        def launch():
            d, dv = dims
            shapes = [
                (BATCH, group * KV_HEADS, LENGTH, d),
                (BATCH, KV_HEADS, LENGTH, d),
                (BATCH, KV_HEADS, LENGTH, dv),
            ]
            q, k, v = (torch.zeros(shape, dtype=dtype) for shape in shapes)
            tau = torch.ones(group * KV_HEADS)
            kept = attention.select_blocks(
                q, k, tau, scale=0.1, quant=quant, smooth=smooth, share_group=False, tiling=tiling
            )
            kept[:] = 255
            for compute in ("native", "int8"):
                attention.attend_blocks(q, k, v, kept, scale=0.1, compute=compute, tiling=tiling)

        return launch

    dtypes, ways = (torch.bfloat16, torch.float32), [("thread", 64), ("token", 64), ("block", 64), ("thread", 128)]
    chosen = [(dims, torch.bfloat16, "thread", 64, True) for dims in head_dims]
    chosen += [((192, 128), torch.float32, "thread", 64, True), ((192, 128), torch.bfloat16, "block", 128, True)]
    chosen += [((64, 64), torch.float32, "token", 64, False)]
    every = [(dims, dtype, *way, True) for dims, dtype, way in product(head_dims, dtypes, ways)]
    for dims, dtype, quant, block_q, smooth in every if complete else chosen:
        group = 1 if dims == (96, 96) else 4
        shape = f"{dims} {dtype} {quant} tiles of {block_q}"
        yield shape, prefill(dims, dtype, group, quant, block_q, smooth)
