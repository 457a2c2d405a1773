"""Attention over kept tiles in Triton, and the operations that `attention.py` calls."""

import torch
import triton
import triton.language as tl

from ._shared.tiles import Tiles
from ._shared.triton_launch import (
    INTERPRETED,
    LOG2_E,
    dot,
    empty_outputs,
    options_of,
    strides_of,
    with_channels_side_by_side,
)
from ._shared.triton_softmax import softmax_end, softmax_start, softmax_step
from .tile_bits import tile_lists
from .tiling import Layout, Tiling
from .triton_quantize import quantize_rows
from .triton_selection import select

__all__ = ["INTERPRETED", "attend_blocks", "select_blocks"]

LARGEST = 127


@triton.jit
def _sparse_prefill(
    q_ptr, k_ptr, v_ptr, q_scales_ptr, k_scales_ptr, begins_ptr, tiles_ptr, out_ptr,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    out_stride_b, out_stride_h, out_stride_n,
    queries, keys, query_tiles, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, INT8: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    part = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest rows first
    pair = tl.program_id(1).to(tl.int64)
    batch, head = pair // (KV_HEADS * GROUP), pair % (KV_HEADS * GROUP)
    kv_head = head // GROUP

    rows = part * BLOCK_M + tl.arange(0, BLOCK_M)
    live, slot, row = rows < queries, rows + (keys - queries), rows.to(tl.int64)
    last = tl.minimum((part + 1) * BLOCK_M, queries) + (keys - queries) - 1
    d1, dv, cols = tl.arange(0, D1), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_N)
    row_ptr = q_ptr + batch * q_stride_b + head * q_stride_h + row * q_stride_n
    q1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
    if D2:
        d2 = D1 + tl.arange(0, D2)
        q2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)
    if INT8:
        q_scale = tl.load(q_scales_ptr + pair * queries + row, mask=live, other=0.0)
        k_scales_ptr += (batch * KV_HEADS + kv_head) * keys
    k_ptr += batch * k_stride_b + kv_head * k_stride_h
    v_ptr += batch * v_stride_b + kv_head * v_stride_h

    begins_ptr += pair * query_tiles + part * BLOCK_M // BLOCK_Q
    begin, end = tl.load(begins_ptr), tl.load(begins_ptr + 1)
    tiles_ptr += begin
    slots = (end - begin).to(tl.int32) * BLOCK_K
    top, total, acc = softmax_start(out_ptr, head, live, 0, False, BLOCK_M, BLOCK_DV)
    for step in range(0, slots, BLOCK_N):
        entry = step + cols
        tile = tl.load(tiles_ptr + entry // BLOCK_K, mask=entry < slots, other=0)
        columns = tile * BLOCK_K + entry % BLOCK_K
        there, column = (entry < slots) & (columns <= last), columns.to(tl.int64)
        key_ptr = k_ptr + column * k_stride_n
        k1 = tl.load(key_ptr[None, :] + d1[:, None], mask=there[None, :], other=0.0)
        if INT8:
            logits = tl.dot(q1, k1, out_dtype=tl.int32)
        else:
            logits = dot(q1, k1, None, UPCAST, PRECISION)
        if D2:
            k2 = tl.load(key_ptr[None, :] + d2[:, None], mask=there[None, :], other=0.0)
            if INT8:
                logits = tl.dot(q2, k2, logits, out_dtype=tl.int32)
            else:
                logits = dot(q2, k2, logits, UPCAST, PRECISION)
        if INT8:
            k_scale = tl.load(k_scales_ptr + column, mask=there, other=0.0)
            logits = logits.to(tl.float32) * q_scale[:, None] * k_scale[None, :]
        visible = there[None, :] & (columns[None, :] <= slot[:, None])
        logits = tl.where(visible, logits * scale_log2, float("-inf"))

        held = there[:, None] & (dv < DV)[None, :]
        values = tl.load(v_ptr + column[:, None] * v_stride_n + dv[None, :], mask=held, other=0.0)
        top, total, acc = softmax_step(logits, tl.max(logits, 1), values, top, total, acc, UPCAST, PRECISION)

    acc, _ = softmax_end(top, total, acc)
    out_ptr += batch * out_stride_b + head * out_stride_h
    out_ptrs = out_ptr + row[:, None] * out_stride_n + dv[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=live[:, None] & (dv < DV)[None, :])


def attention_tiles(dtype: torch.dtype, head_dim: int, tiling: Tiling) -> Tiles:
    """Two tiles of 32 keys at once: one is too few for a matrix unit. Rows are a part of a tile of queries. 96 channels, in two parts, take more registers."""
    rows = min(64, tiling.block_q)
    if dtype == torch.float32:
        return Tiles(16, 16, 4, 1) if head_dim > 64 else Tiles(rows, 32 if head_dim > 32 else 64, 8, 1)
    return Tiles(rows, 64, 8 if head_dim == 96 else 4, 2)


def select_blocks(q, k, tau, **how) -> torch.Tensor:
    return select(with_channels_side_by_side(q), with_channels_side_by_side(k), tau, **how)


def attend_blocks(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kept: torch.Tensor,
    *,
    scale: float,
    compute: str,
    tiling: Tiling,
) -> torch.Tensor:
    """As in `attention.py`; the output's memory is laid out as `[B, n, H, dv]`."""
    q, k, v = map(with_channels_side_by_side, (q, k, v))
    batch, heads, queries = q.shape[:3]
    layout = Layout(queries, k.shape[2], tiling)
    begins, tiles = tile_lists(kept, layout.key_tiles)
    out = empty_outputs(q, v, 1)[0][0]
    sizes = attention_tiles(q.dtype, q.shape[-1], tiling)
    options = options_of(q, k, v, None, sizes)
    del options["HAS_START"]
    q_scales = k_scales = out
    if compute == "int8":
        mean = k.mean(dim=2, keepdim=True, dtype=torch.float32)
        q, q_scales, _ = quantize_rows(q, "query", "block", None, tiling, LARGEST)
        k, k_scales, _ = quantize_rows(k, "key", "block", mean, tiling, LARGEST)
    _sparse_prefill[(triton.cdiv(queries, sizes.rows), batch * heads)](
        q, k, v, q_scales, k_scales, begins, tiles, out, *strides_of(q, k, v, out),
        queries, layout.keys, layout.query_tiles, scale * LOG2_E,
        **options, BLOCK_Q=tiling.block_q, BLOCK_K=tiling.block_k, INT8=compute == "int8",
    )  # fmt: skip
    return out
