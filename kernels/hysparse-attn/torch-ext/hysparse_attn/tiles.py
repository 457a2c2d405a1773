"""
Which tiles the Triton kernels take: none of them spills registers on sm_80 or sm_90, at any of the head dims.

On sm_90 with 128 channels of bfloat16, a tile of the full forward kernel takes 98,816 bytes of shared memory and up to 212
registers a thread, one of the sparse kernel 38,912 bytes and up to 143: one and three of them run on a processor at once.
"""

from functools import cache
from typing import NamedTuple

import torch

# (query and key, value): what the kernels are compiled and tested for.
HEAD_DIMS = ((32, 32), (64, 64), (96, 96), (128, 128), (192, 128))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# A tile of keys lies inside one block, and Triton multiplies no less than 16 of them.
BLOCK_MULTIPLE = 16
MAX_SPLITS = 64


class Tiles(NamedTuple):
    """`rows`: pairs of a query and a head of its group; `keys`: keys that are read at once."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int

    def within(self, block_size: int) -> "Tiles":
        """With as many keys as divide a block."""
        keys = self.keys
        while block_size % keys:
            keys //= 2
        return self._replace(keys=keys)


@cache
def is_hopper(device: torch.device) -> bool:
    """Its matrix units read shared memory, which leaves registers free. No CUDA device (interpreter): no."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def split_head_dim(head_dim: int) -> tuple[int, int]:
    """Powers of two that add up to it, as a tensor's sides have to be in Triton; the second is 0 where one is enough."""
    first = 1 << (head_dim.bit_length() - 1)
    return first, head_dim - first


def full_forward_tiles(dtype: torch.dtype, head_dim: int, rows: int, hopper: bool) -> Tiles:
    if dtype == torch.float32:
        return Tiles(16, 16, 4, 2)
    if rows <= 16:
        return Tiles(16, 64, 4, 2)
    if rows <= 64:
        return Tiles(64, 64, 8, 2)
    return Tiles(128, 64 if hopper or head_dim < 128 else 32, 8, 2)


def full_query_gradient_tiles(dtype: torch.dtype, head_dim: int, hopper: bool) -> Tiles:
    if dtype == torch.float32:
        return Tiles(16, 16, 4, 1)
    if hopper:
        return Tiles(64, 64, 8, 2)
    return Tiles(64, 32, 4, 2) if head_dim <= 128 else Tiles(32, 64, 8, 1)


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


def number_of_splits(programs: int, most: int, device: torch.device) -> int:
    """Into how many parts the keys of a tile are split, so that a few long rows still occupy the whole device."""
    if device.type != "cuda":
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(processors // programs, most, MAX_SPLITS))
