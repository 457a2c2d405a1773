"""Which tiles the Triton kernels take: none of them spills registers on sm_80 or sm_90, at any of the head dims."""

import torch

from ._shared.tiles import Tiles


def forward_tiles(dtype: torch.dtype, rows: int) -> Tiles:
    if dtype == torch.float32:
        return Tiles(16, 32, 4, 2)
    if rows <= 16:
        return Tiles(16, 64, 4, 2)
    if rows <= 64:
        return Tiles(64, 64, 8, 2)
    return Tiles(128, 64, 8, 2)


def key_gradient_tiles(dtype: torch.dtype, head_dim: int, hopper: bool) -> Tiles:
    if dtype == torch.float32:
        return Tiles(16, 16, 4, 1)
    return Tiles(32, 64, 8, 2) if hopper or head_dim <= 128 else Tiles(64, 32, 8, 2)
