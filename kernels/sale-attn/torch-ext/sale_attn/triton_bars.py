"""The score that each row has to pass: exact scores of the tiles that are always kept, and an online sum of their exponentials."""

import torch
import triton
import triton.language as tl

from ._shared.tiles import Tiles
from ._shared.triton_launch import LOG2_E, dot, options_of, strides_of
from .tiling import Tiling


@triton.jit
def areas(
    tile, queries, offset,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, SEGMENT: tl.constexpr,
):  # fmt: skip
    """How many tiles of keys a tile of queries sees, and the end of those that are estimated, from SINK on: `Layout`."""
    visible = tl.cdiv(offset + tl.minimum((tile + 1) * BLOCK_Q, queries), BLOCK_K)
    outside = tl.maximum(visible - SINK, 0)
    spare = tl.cdiv(outside, SEGMENT) * SEGMENT - outside
    last = tl.cdiv(LOCAL + spare, SEGMENT) * SEGMENT - spare
    diagonal = (offset + tile * BLOCK_Q) // BLOCK_K
    return visible, tl.maximum(tl.minimum(visible - last, diagonal), SINK)


@triton.jit
def _row_bars(
    q_ptr, k_ptr, mean_ptr, tau_ptr, bars_ptr,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n,
    queries, offset, scale_log2,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, SEGMENT: tl.constexpr,
    SMOOTH: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    batch, head = pair // (KV_HEADS * GROUP), pair % (KV_HEADS * GROUP)
    kv_head = head // GROUP
    _, local = areas(part * BLOCK_M // BLOCK_Q, queries, offset, BLOCK_Q, BLOCK_K, SINK, LOCAL, SEGMENT)

    if local > SINK:
        rows = part * BLOCK_M + tl.arange(0, BLOCK_M)
        live, slot = rows < queries, rows + offset
        d1, cols = tl.arange(0, D1), tl.arange(0, BLOCK_N)
        row_ptr = q_ptr + batch * q_stride_b + head * q_stride_h + rows.to(tl.int64) * q_stride_n
        q1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
        k_ptr += batch * k_stride_b + kv_head * k_stride_h
        mean_ptr += (batch * KV_HEADS + kv_head) * (D1 + D2)
        if D2:
            d2 = D1 + tl.arange(0, D2)
            q2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)

        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        begin, end = local * BLOCK_K, tl.minimum((part + 1) * BLOCK_M, queries) + offset
        sink_steps: tl.constexpr = (SINK * BLOCK_K + BLOCK_N - 1) // BLOCK_N
        for step in range(sink_steps + tl.cdiv(end - begin, BLOCK_N)):
            in_sink = step < sink_steps
            columns = tl.where(in_sink, step * BLOCK_N, begin + (step - sink_steps) * BLOCK_N) + cols
            there = columns < tl.where(in_sink, SINK * BLOCK_K, end)
            key_ptr = k_ptr + columns.to(tl.int64) * k_stride_n
            k1 = tl.load(key_ptr[None, :] + d1[:, None], mask=there[None, :], other=0.0)
            scores = dot(q1, k1, None, UPCAST, PRECISION)
            if D2:
                k2 = tl.load(key_ptr[None, :] + d2[:, None], mask=there[None, :], other=0.0)
                scores = dot(q2, k2, scores, UPCAST, PRECISION)
            visible = there[None, :] & (columns[None, :] <= slot[:, None])
            logits = tl.where(visible, scores * scale_log2, float("-inf"))
            new_top = tl.maximum(top, tl.max(logits, 1))
            total = total * tl.exp2(top - new_top) + tl.sum(tl.exp2(logits - new_top[:, None]), 1)
            top = new_top

        # A sum that is NaN makes the bar NaN, which nothing is known to be below.
        bar = (top + tl.log2(tl.load(tau_ptr + head) * total)) / scale_log2
        if SMOOTH:
            bar -= tl.sum(q1.to(tl.float32) * tl.load(mean_ptr + d1)[None, :], 1)
            if D2:
                bar -= tl.sum(q2.to(tl.float32) * tl.load(mean_ptr + d2)[None, :], 1)
        tl.store(bars_ptr + pair * queries + rows, bar, mask=live)


def bar_tiles(dtype: torch.dtype, head_dim: int, block_q: int) -> Tiles:
    """Rows are a part of a tile of queries."""
    rows = min(64, block_q)
    if dtype == torch.float32:
        return Tiles(16, 16, 4, 1) if head_dim > 64 else Tiles(rows, 32 if head_dim > 32 else 64, 8, 1)
    return Tiles(rows, 64, 4, 2)


def areas_of(tiling: Tiling) -> dict[str, int]:
    """A tiling as kernels want it, in tiles of keys."""
    block_k = tiling.block_k
    return {
        "BLOCK_Q": tiling.block_q,
        "BLOCK_K": block_k,
        "SINK": tiling.sink_tokens // block_k,
        "LOCAL": tiling.local_window // block_k,
        "SEGMENT": tiling.block_seg // block_k,
    }


def row_bars(
    q: torch.Tensor, k: torch.Tensor, k_mean: torch.Tensor | None, tau: torch.Tensor, scale: float, tiling: Tiling
) -> torch.Tensor:
    """
    Args:
        q, k: `[B, H, n, d]` and `[B, K, T, d]`.
        k_mean: of all keys, float32 `[B, K, 1, d]`, or None: without smoothing.
        tau: `[H]`, float32.

    Returns:
        What the product of a query and a key less `k_mean` has to pass, `[B, H, n]`; not written where nothing is estimated.
    """
    batch, heads, queries = q.shape[:3]
    bars = torch.empty((batch, heads, queries), device=q.device, dtype=torch.float32)
    tiles = bar_tiles(q.dtype, q.shape[-1], tiling.block_q)
    options = options_of(q, k, k, None, tiles)
    for name in ("HAS_START", "DV", "BLOCK_DV"):
        del options[name]
    _row_bars[(triton.cdiv(queries, tiles.rows), batch * heads)](
        q, k, bars if k_mean is None else k_mean.contiguous(), tau, bars, *strides_of(q, k),
        queries, k.shape[2] - queries, scale * LOG2_E,
        **areas_of(tiling), **options, SMOOTH=k_mean is not None,
    )  # fmt: skip
    return bars
