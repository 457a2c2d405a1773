"""
Forward kernel of causal attention over all keys, or those of a window: an online softmax, with a sink and with the largest
logit of each block of keys where they are wanted.

A tile's rows are (query, head) pairs of one key-value head, query by query: the heads of a group read their keys once, a
tile spans few positions, so that little of what it reads lies outside a window, and one query fills it with its heads.
"""

import torch
import triton
import triton.language as tl

from .tiles import Tiles
from .triton_launch import LOG2_E, dot, first_slot, options_of, strides_of
from .triton_softmax import softmax_end, softmax_start, softmax_step


@triton.jit
def place(WINDOWED: tl.constexpr, KV_HEADS: tl.constexpr):
    """Tile, row of the batch and key-value head of a program."""
    tile = tl.program_id(0)
    if not WINDOWED:
        tile = tl.num_programs(0) - 1 - tile  # the longest rows first
    pair = tl.program_id(1).to(tl.int64)
    return tile, pair // KV_HEADS, pair % KV_HEADS


@triton.jit
def rows_of(tile, kv_head, offset, queries, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """Of each row of a tile: whether there is one, its query, head and slot."""
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    query = rows // GROUP
    return rows < queries * GROUP, query, kv_head * GROUP + rows % GROUP, query + offset


@triton.jit
def seen_slots(
    tile, offset, queries, window, start,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """The half-open range of slots that any row of a tile sees."""
    low = start
    if WINDOWED:
        low = tl.maximum(low, (tile * BLOCK_M) // GROUP + offset - window + 1)
    return low, tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // GROUP, queries - 1) + offset + 1


@triton.jit
def _dense_forward(
    q_ptr, k_ptr, v_ptr, sinks_ptr, start_ptr, out_ptr, lse_ptr, maxima_ptr,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    out_stride_s, out_stride_b, out_stride_h, out_stride_n, lse_stride_s, lse_stride_b, lse_stride_h,
    queries, blocks, offset, window, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    WINDOWED: tl.constexpr, HAS_SINKS: tl.constexpr, HAS_MAXIMA: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HAS_START: tl.constexpr, SPLITS: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile, batch, kv_head = place(WINDOWED, KV_HEADS)
    split = tl.program_id(2)

    live, query, head, slot = rows_of(tile, kv_head, offset, queries, GROUP, BLOCK_M)
    start = first_slot(start_ptr, batch, HAS_START)
    low, high = seen_slots(tile, offset, queries, window, start, GROUP, BLOCK_M, WINDOWED)
    if SPLITS > 1:
        share = tl.cdiv(tl.cdiv(tl.maximum(high - low, 0), SPLITS), BLOCK_SIZE) * BLOCK_SIZE
        low += split * share
        high = tl.minimum(high, low + share)

    d1, dv, cols = tl.arange(0, D1), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_N)
    row_ptr = q_ptr + batch * q_stride_b + head * q_stride_h + query.to(tl.int64) * q_stride_n
    q1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
    k_ptr += batch * k_stride_b + kv_head * k_stride_h + low.to(tl.int64) * k_stride_n
    k1_ptrs = k_ptr + cols[None, :] * k_stride_n + d1[:, None]
    if D2:
        d2 = D1 + tl.arange(0, D2)
        q2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)
        k2_ptrs = k_ptr + cols[None, :] * k_stride_n + d2[:, None]
    v_ptr += batch * v_stride_b + kv_head * v_stride_h + low.to(tl.int64) * v_stride_n
    v_ptrs = v_ptr + cols[:, None] * v_stride_n + dv[None, :]

    top, total, acc = softmax_start(sinks_ptr, head, live, split, HAS_SINKS, BLOCK_M, BLOCK_DV)
    if HAS_MAXIMA:
        rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        maxima_ptr += (batch * KV_HEADS + kv_head) * blocks * queries * GROUP
        block_top = top
    for begin in range(low, high, BLOCK_N):
        columns = begin + cols
        there = columns < high
        k1 = tl.load(k1_ptrs, mask=there[None, :], other=0.0)
        logits = dot(q1, k1, None, UPCAST, PRECISION)
        k1_ptrs += BLOCK_N * k_stride_n
        if D2:
            k2 = tl.load(k2_ptrs, mask=there[None, :], other=0.0)
            logits = dot(q2, k2, logits, UPCAST, PRECISION)
            k2_ptrs += BLOCK_N * k_stride_n
        visible = there[None, :] & (columns[None, :] <= slot[:, None])
        if WINDOWED:
            visible &= columns[None, :] > slot[:, None] - window
        logits = tl.where(visible, logits * scale_log2, float("-inf"))

        tile_top = tl.max(logits, 1)
        if HAS_MAXIMA:
            # Of a block with several tiles, the last to be written is the maximum of all.
            inside = (begin - start) % BLOCK_SIZE
            block_top = tl.where(inside == 0, tile_top, tl.maximum(block_top, tile_top))
            block = ((begin - start) // BLOCK_SIZE).to(tl.int64)
            tl.store(maxima_ptr + block * (queries * GROUP) + rows, block_top, mask=live)
        values = tl.load(v_ptrs, mask=there[:, None] & (dv < DV)[None, :], other=0.0)
        top, total, acc = softmax_step(logits, tile_top, values, top, total, acc, UPCAST, PRECISION)
        v_ptrs += BLOCK_N * v_stride_n

    acc, lse = softmax_end(top, total, acc)
    lse_ptr += split * lse_stride_s + batch * lse_stride_b
    tl.store(lse_ptr + head * lse_stride_h + query, lse, mask=live)
    out_ptr += split.to(tl.int64) * out_stride_s + batch * out_stride_b
    row_ptr = out_ptr + head * out_stride_h + query.to(tl.int64) * out_stride_n
    acc = acc.to(out_ptr.dtype.element_ty)
    tl.store(row_ptr[:, None] + dv[None, :], acc, mask=live[:, None] & (dv < DV)[None, :])


def dense_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    tiles: Tiles,
    scale: float,
    kv_start: torch.Tensor | None,
    q_offset: int,
    sinks: torch.Tensor | None = None,
    window: int | None = None,
    maxima: torch.Tensor | None = None,
    block_size: int | None = None,
):
    """
    Writes `out` and `lse`, as `empty_outputs` makes them: base-2 logarithms of each row's sum of exponentials, the sink's
    among them. More than one split, and `merge_splits` comes next.

    Args:
        q, k, v: `[B, H, n, d]`, `[B, K, T, d]`, `[B, K, T, dv]`.
        q_offset: slot of the first query.
        window: how many slots a query sees, its own among them; None: all from kv_start on.
        maxima: of base-2 logits in each block of `block_size` keys from kv_start on, `[B, K, blocks, n, G]`, written too, up
            to each tile's last slot; without a window. A tile of keys lies inside a block.
    """
    splits, batch, heads, queries = lse.shape
    kv_heads = k.shape[1]
    assert k.shape == (batch, kv_heads, v.shape[2], q.shape[-1])
    assert maxima is None or (window is None and maxima.is_contiguous())
    _dense_forward[(triton.cdiv(queries * heads // kv_heads, tiles.rows), batch * kv_heads, splits)](
        q, k, v, lse if sinks is None else sinks.float() * LOG2_E, lse if kv_start is None else kv_start, out, lse,
        lse if maxima is None else maxima, *strides_of(q, k, v, out, lse),
        queries, 0 if maxima is None else maxima.shape[2], q_offset, window or 0, scale * LOG2_E,
        **options_of(q, k, v, kv_start, tiles), WINDOWED=window is not None, HAS_SINKS=sinks is not None,
        HAS_MAXIMA=maxima is not None, BLOCK_SIZE=block_size or tiles.keys, SPLITS=splits,
    )  # fmt: skip
