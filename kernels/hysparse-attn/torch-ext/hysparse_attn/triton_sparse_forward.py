"""
Forward kernel of the sparse attention: a program reads the blocks that one query has chosen, for all heads of its group.

Keys come from memory once for a query and a group: topk x block_size x (d + dv) elements, whatever the number of heads. The heads
are the rows of a tile, filled up to sixteen; groups of fewer leave a part of the matrix units idle, the price of a list of
blocks for each query. Neighbouring queries in one tile would read the union of their lists, less only where the lists agree.
"""

import torch
import triton
import triton.language as tl

from ._shared.tiles import number_of_splits
from ._shared.triton_launch import LOG2_E, dot, empty_outputs, first_slot, merge_splits, options_of, strides_of
from ._shared.triton_softmax import softmax_end, softmax_start, softmax_step
from .tiles import sparse_tiles


@triton.jit
def chosen_slots(idx_ptr, step, start, slot, cols, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """The slots of a tile of a chosen block, and which of them the query at `slot` may see: none where idx is -1."""
    parts: tl.constexpr = BLOCK_SIZE // BLOCK_N
    block = tl.load(idx_ptr + step // parts)
    last = tl.where((block >= 0) & (block * BLOCK_SIZE <= slot - start), slot, -1)
    columns = start + tl.where(last < 0, 0, block) * BLOCK_SIZE + (step % parts) * BLOCK_N + cols
    return columns, columns <= last


@triton.jit
def _sparse_forward(
    q_ptr, k_ptr, v_ptr, idx_ptr, sinks_ptr, start_ptr, out_ptr, lse_ptr,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    idx_stride_b, idx_stride_h, idx_stride_n,
    out_stride_s, out_stride_b, out_stride_h, out_stride_n, lse_stride_s, lse_stride_b, lse_stride_h,
    offset, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, TOPK: tl.constexpr, HAS_SINKS: tl.constexpr, HAS_START: tl.constexpr, SPLITS: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1).to(tl.int64)
    batch, kv_head = pair // KV_HEADS, pair % KV_HEADS
    split = tl.program_id(2)
    start = first_slot(start_ptr, batch, HAS_START)
    slot = tl.program_id(0) + offset

    rows = tl.arange(0, BLOCK_M)
    live, head = rows < GROUP, kv_head * GROUP + rows
    d1, dv, cols = tl.arange(0, D1), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_N)
    row_ptr = q_ptr + batch * q_stride_b + head * q_stride_h + query * q_stride_n
    q1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
    if D2:
        d2 = D1 + tl.arange(0, D2)
        q2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)
    k_ptr += batch * k_stride_b + kv_head * k_stride_h
    v_ptr += batch * v_stride_b + kv_head * v_stride_h
    idx_ptr += batch * idx_stride_b + kv_head * idx_stride_h + query * idx_stride_n

    top, total, acc = softmax_start(sinks_ptr, head, live, split, HAS_SINKS, BLOCK_M, BLOCK_DV)
    steps: tl.constexpr = TOPK * (BLOCK_SIZE // BLOCK_N)
    share: tl.constexpr = (steps + SPLITS - 1) // SPLITS
    for step in range(split * share, tl.minimum(split * share + share, steps)):
        columns, visible = chosen_slots(idx_ptr, step, start, slot, cols, BLOCK_SIZE, BLOCK_N)
        column = columns.to(tl.int64)
        k1 = tl.load(k_ptr + column[None, :] * k_stride_n + d1[:, None], mask=visible[None, :], other=0.0)
        logits = dot(q1, k1, None, UPCAST, PRECISION)
        if D2:
            k2 = tl.load(k_ptr + column[None, :] * k_stride_n + d2[:, None], mask=visible[None, :], other=0.0)
            logits = dot(q2, k2, logits, UPCAST, PRECISION)
        logits = tl.where(visible[None, :], logits * scale_log2, float("-inf"))

        there = visible[:, None] & (dv < DV)[None, :]
        values = tl.load(v_ptr + column[:, None] * v_stride_n + dv[None, :], mask=there, other=0.0)
        top, total, acc = softmax_step(logits, tl.max(logits, 1), values, top, total, acc, UPCAST, PRECISION)

    acc, lse = softmax_end(top, total, acc)
    lse_ptr += split * lse_stride_s + batch * lse_stride_b
    tl.store(lse_ptr + head * lse_stride_h + query, lse, mask=live)
    out_ptr += split.to(tl.int64) * out_stride_s + batch * out_stride_b + query * out_stride_n
    acc = acc.to(out_ptr.dtype.element_ty)
    out_ptrs = out_ptr + head[:, None] * out_stride_h + dv[None, :]
    tl.store(out_ptrs, acc, mask=live[:, None] & (dv < DV)[None, :])


def sparse_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sinks: torch.Tensor | None,
    idx: torch.Tensor,
    scale: float,
    kv_start: torch.Tensor | None,
    q_offset: int,
    block_size: int,
    splits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Args:
        q, k, v, sinks, idx, kv_start, q_offset, block_size: as in `block_sparse_attention`.
        splits: of a query's blocks; None: as `tiles.py` says.

    Returns:
        The output `[B, H, n, dv]`, whose memory is laid out as `[B, n, H, dv]`, and the base-2 logarithm of each row's sum of
        exponentials, the sink's among them, `[B, H, n]`.
    """
    batch, heads, queries = q.shape[:3]
    kv_heads, topk = k.shape[1], idx.shape[-1]
    assert idx.shape[:3] == (batch, kv_heads, queries)
    tiles = sparse_tiles(q.dtype, heads // kv_heads).within(block_size)
    splits = splits or number_of_splits(queries * batch * kv_heads, topk * block_size // (2 * tiles.keys), q.device)
    out, lse = empty_outputs(q, v, splits)
    _sparse_forward[(queries, batch * kv_heads, splits)](
        q, k, v, idx, lse if sinks is None else sinks.float() * LOG2_E, lse if kv_start is None else kv_start, out, lse,
        *strides_of(q, k, v, idx, out, lse), q_offset, scale * LOG2_E,
        **options_of(q, k, v, kv_start, tiles),
        BLOCK_SIZE=block_size, TOPK=topk, HAS_SINKS=sinks is not None, SPLITS=splits,
    )  # fmt: skip
    if splits > 1:
        out, lse = merge_splits(out, lse, q.dtype)
    return out[0], lse[0]
