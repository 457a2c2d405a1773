"""Which head dims and types the Triton kernels take, what a tile is, and how many programs share a row."""

from functools import cache
from typing import NamedTuple

import torch

# (query and key, value): what the kernels are compiled and tested for.
HEAD_DIMS = ((32, 32), (64, 64), (96, 96), (128, 128), (192, 128))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
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


def query_gradient_tiles(dtype: torch.dtype, head_dim: int, hopper: bool) -> Tiles:
    """Of `triton_dense_backward`, whatever the window."""
    if dtype == torch.float32:
        return Tiles(16, 16, 4, 1)
    if hopper:
        return Tiles(64, 64, 8, 2)
    return Tiles(64, 32, 4, 2) if head_dim <= 128 else Tiles(32, 64, 8, 1)


def number_of_splits(programs: int, most: int, device: torch.device) -> int:
    """Into how many parts the keys of a tile are split, so that a few long rows still occupy the whole device."""
    if device.type != "cuda":
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(processors // programs, most, MAX_SPLITS))
