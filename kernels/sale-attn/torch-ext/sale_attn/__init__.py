"""Sparse prefill (SALE): tiles of scores are chosen from 4-bit estimates, and attention reads those only. Triton, PyTorch."""

from .attention import attend_blocks, select_blocks, triton_lacks
from .quantize import Quantized, pack_int4, quantize, unpack_int4
from .tile_bits import pack_tiles, tile_lists, unpack_tiles
from .tiling import Layout, Tiling

__all__ = [
    "Layout",
    "Quantized",
    "Tiling",
    "attend_blocks",
    "pack_int4",
    "pack_tiles",
    "quantize",
    "select_blocks",
    "tile_lists",
    "triton_lacks",
    "unpack_int4",
    "unpack_tiles",
]
