"""
Which tiles the Triton kernels take: none of them spills registers on sm_80 or sm_90, at any of the head dims.

On sm_90 with 128 channels of bfloat16, a tile of the full forward kernel takes 98,816 bytes of shared memory and up to 212
registers a thread, one of the sparse kernel 38,912 bytes and up to 143: one and three of them run on a processor at once.
"""

import torch

from ._shared.tiles import Tiles, split_head_dim

# A tile of keys lies inside one block, and Triton multiplies no less than 16 of them.
BLOCK_MULTIPLE = 16


def full_forward_tiles(dtype: torch.dtype, head_dim: int, rows: int, hopper: bool) -> Tiles:
    if dtype == torch.float32:
        return Tiles(16, 16, 4, 2)
    if rows <= 16:
        return Tiles(16, 64, 4, 2)
    if rows <= 64:
        return Tiles(64, 64, 8, 2)
    return Tiles(128, 64 if hopper or head_dim < 128 else 32, 8, 2)


def key_gradient_tiles(dtype: torch.dtype, head_dim: int, hopper: bool) -> Tiles:
    """Of both attentions. A head dim in two parts holds more registers."""
    if dtype == torch.float32:
        return Tiles(16, 16, 8, 1)
    return Tiles(16 if split_head_dim(head_dim)[1] and not hopper else 32, 64, 8, 2)


def sparse_tiles(dtype: torch.dtype, group: int) -> Tiles:
    """Of the forward kernel and the query's gradient: one query, whose heads fill the rows as far as they go."""
    rows = max(16, 1 << (group - 1).bit_length())
    num_warps = 4 if rows == 16 else 8
    return Tiles(rows, 16, num_warps, 1) if dtype == torch.float32 else Tiles(rows, 64, num_warps, 2)
