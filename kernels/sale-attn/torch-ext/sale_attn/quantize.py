"""Four bits a channel: symmetric codes from -7 to 7, with a scale for each group of rows."""

from typing import NamedTuple

import torch

from .tiling import TILING, Tiling

QUANTS = ("thread", "token", "block")
ROLES = ("query", "key")
LARGEST = 7


class Quantized(NamedTuple):
    """
    `codes * scales + mean` is near what was quantised.

    Attributes:
        codes: int8, -7 to 7, `[B, H, N, d]`.
        scales: float32, the same for all rows of a group, `[B, H, N]`; NaN where a row of the group is not finite.
        mean: float32, of all rows, `[B, H, 1, d]`; zero without smoothing.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    mean: torch.Tensor


def group_of_rows(count: int, role: str, quant: str, tiling: Tiling, device=None) -> torch.Tensor:
    """
    Number of the group that each row shares its scale with, `[count]`.

    "thread": rows that one thread of a matrix unit holds: queries r and r + 8 of sixteen; of a tile of keys those
    with equal (index mod 8) // 2. "token": each row by itself. "block": a whole tile.
    """
    row = torch.arange(count, device=device)
    if quant == "token":
        return row
    block = tiling.block_q if role == "query" else tiling.block_k
    if quant == "block":
        return row // block
    if role == "query":
        return row // 16 * 8 + row % 8
    return row // block * 4 + row % 8 // 2


def quantize(
    x: torch.Tensor, role: str, quant: str = "thread", smooth: bool = True, tiling: Tiling = TILING
) -> Quantized:
    r"""
    $codes = round(7 x' / a)$ with a the largest magnitude of x' in the group, $x' = x - mean_{rows}(x)$ where smoothed
    (SALE, arXiv 2505.24179).

    Args:
        x: `[B, H, N, d]`.
        role: "query" or "key": which rows "thread" and "block" put together.
        quant: "thread", "token" or "block": what shares a scale.
        smooth: whether the mean of all rows is taken off first.

    Raises:
        ValueError: an argument that can't be.
    """
    check_quant(quant)
    if role not in ROLES:
        raise ValueError(f"`role` must be 'query' or 'key'; got {role!r}.")
    if x.dim() != 4 or not x.dtype.is_floating_point or x.shape[2] == 0:
        raise ValueError(f"`x` must be floating-point, [B, H, N, d], with rows; got {list(x.shape)} {x.dtype}.")
    values = x.float()
    mean = values.mean(dim=2, keepdim=True) if smooth else torch.zeros_like(values[:, :, :1])
    values = values - mean  # a copy, worked on in place from here on
    largest = torch.linalg.vector_norm(values, ord=float("inf"), dim=-1)
    largest = largest.masked_fill(~largest.isfinite(), float("nan"))
    groups = group_of_rows(x.shape[2], role, quant, tiling, x.device)
    if quant != "token":
        groups = groups.expand_as(largest)
        of_group = torch.zeros_like(largest).scatter_reduce(2, groups, largest, "amax", include_self=True)
        largest = of_group.gather(2, groups)
    # A group of zeros, or of what divides to nothing, gets codes 0.
    scales = (largest / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    codes = values.div_(scales[..., None]).round_().nan_to_num_(0.0).to(torch.int8)
    return Quantized(codes, scales, mean)


def check_quant(quant: str) -> None:
    if quant not in QUANTS:
        raise ValueError(f"`quant` must be 'thread', 'token' or 'block'; got {quant!r}.")


def pack_int4(codes: torch.Tensor) -> torch.Tensor:
    """Two codes a byte, the first of a pair in the high half: int8 `[..., d]`, d even, to uint8 `[..., d / 2]`."""
    if codes.dtype != torch.int8 or codes.shape[-1] % 2:
        raise ValueError(f"`codes` must be int8 with an even last side; got {list(codes.shape)} {codes.dtype}.")
    nibbles = (codes & 0xF).to(torch.uint8)
    return (nibbles[..., 0::2] << 4) | nibbles[..., 1::2]


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack_int4`."""
    if packed.dtype != torch.uint8:
        raise ValueError(f"`packed` must be uint8, as pack_int4 gives it; got {packed.dtype}.")
    nibbles = torch.stack([packed >> 4, packed & 0xF], dim=-1).flatten(-2).to(torch.int8)
    return torch.where(nibbles > 7, nibbles - 16, nibbles)
