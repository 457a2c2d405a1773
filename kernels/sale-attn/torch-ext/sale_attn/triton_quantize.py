"""Codes and scales, a tile of rows a program: one pass over the rows, after the one that takes their mean."""

import torch
import triton
import triton.language as tl

from ._shared.triton_launch import strides_of
from .tiling import Tiling

# What shares a scale: rows of a tile, as `quantize.group_of_rows` says.
TOKEN, BLOCK, QUERY_THREAD, KEY_THREAD = map(tl.constexpr, range(4))
# Added and taken off again, it leaves the nearest whole number, and the even one of two, as torch.round does.
ROUNDING = tl.constexpr(1.5 * 2**23)
SMALLEST = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def largest_of_group(largest, SHARED: tl.constexpr, ROWS: tl.constexpr):
    """Of each row, `[ROWS]`, the largest value among the rows that share its scale."""
    if SHARED == BLOCK:
        largest = tl.broadcast_to(tl.max(largest, 0), [ROWS])
    if SHARED == QUERY_THREAD:
        largest = tl.max(tl.reshape(largest, [ROWS // 16, 2, 8]), 1)
        largest = tl.reshape(tl.broadcast_to(largest[:, None, :], [ROWS // 16, 2, 8]), [ROWS])
    if SHARED == KEY_THREAD:
        largest = tl.max(tl.max(tl.reshape(largest, [ROWS // 8, 4, 2]), 2), 0)
        largest = tl.reshape(tl.broadcast_to(largest[None, :, None], [ROWS // 8, 4, 2]), [ROWS])
    return largest


@triton.jit
def _quantize(
    x_ptr, mean_ptr, q_mean_ptr, codes_ptr, scales_ptr, offsets_ptr,
    x_stride_b, x_stride_h, x_stride_n, count,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
    SHARED: tl.constexpr, LARGEST: tl.constexpr, SMOOTH: tl.constexpr, HAS_OFFSETS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    batch, head = pair // HEADS, pair % HEADS
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row, d = rows.to(tl.int64), tl.arange(0, BLOCK_D)
    there = (rows < count)[:, None] & (d < D)[None, :]
    x_ptr += batch * x_stride_b + head * x_stride_h
    values = tl.load(x_ptr + row[:, None] * x_stride_n + d[None, :], mask=there, other=0.0).to(tl.float32)
    if SMOOTH:
        mean = tl.load(mean_ptr + pair * D + d, mask=d < D, other=0.0)
        values = tl.where(there, values - mean[None, :], 0.0)

    magnitude = tl.abs(values)
    lost = tl.max(tl.where(magnitude < float("inf"), 0, 1), 1)
    lost = largest_of_group(lost, SHARED, ROWS) > 0
    scale = tl.maximum(largest_of_group(tl.max(magnitude, 1), SHARED, ROWS) / LARGEST, SMALLEST)
    scale = tl.where(lost, float("nan"), scale)
    tl.store(scales_ptr + pair * count + row, scale, mask=rows < count)
    codes = (values / scale[:, None] + ROUNDING) - ROUNDING
    codes = tl.where(lost[:, None], 0.0, codes).to(tl.int8)
    tl.store(codes_ptr + (pair * count + row)[:, None] * D + d[None, :], codes, mask=there)

    if HAS_OFFSETS:
        for member in range(GROUP):
            of_head = pair * GROUP + member
            q_mean = tl.load(q_mean_ptr + of_head * D + d, mask=d < D, other=0.0)
            tl.store(offsets_ptr + of_head * count + row, tl.sum(values * q_mean[None, :], 1), mask=rows < count)


def quantize_rows(
    x: torch.Tensor,
    role: str,
    quant: str,
    mean: torch.Tensor | None,
    tiling: Tiling,
    largest: int,
    q_mean: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """
    Args:
        x: `[B, H, N, d]`.
        role, quant, tiling: as in `quantize`.
        mean: of all rows, float32 `[B, H, 1, d]`, or None: nothing is taken off.
        largest: code.
        q_mean: of the queries, `[B, G * H, 1, d]`, where x are keys.

    Returns:
        Codes, int8 `[B, H, N, d]`, scales, float32 `[B, H, N]`, and with `q_mean` its products with x less `mean`, `[B, G * H, N]`.
    """
    batch, heads, count, d = x.shape
    codes = torch.empty((batch, heads, count, d), device=x.device, dtype=torch.int8)
    scales = torch.empty((batch, heads, count), device=x.device, dtype=torch.float32)
    group = 1 if q_mean is None else q_mean.shape[1] // heads
    offsets = None if q_mean is None else scales.new_empty((batch, group * heads, count))
    rows = tiling.block_q if role == "query" else tiling.block_k
    of_thread = QUERY_THREAD if role == "query" else KEY_THREAD
    block_d = triton.next_power_of_2(d)
    _quantize[(triton.cdiv(count, rows), batch * heads)](
        x, scales if mean is None else mean.contiguous(), scales if q_mean is None else q_mean.contiguous(), codes, scales,
        scales if offsets is None else offsets, *strides_of(x), count,
        HEADS=heads, GROUP=group, D=d, BLOCK_D=block_d, ROWS=rows,
        SHARED={"token": TOKEN, "block": BLOCK, "thread": of_thread}[quant].value, LARGEST=largest, SMOOTH=mean is not None,
        HAS_OFFSETS=offsets is not None, num_warps=max(1, rows * block_d // (1024 if block_d <= 64 else 2048)), num_stages=1,
    )  # fmt: skip
    return codes, scales, offsets
