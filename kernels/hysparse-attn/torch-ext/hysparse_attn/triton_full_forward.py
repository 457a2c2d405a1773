"""
Forward kernel of the full attention: an online softmax that also stores the largest logit of each block of keys.

A tile's rows are (query, head) pairs of one key-value head, query by query: the heads of a group read their keys once, and
one query that decodes fills a tile with its heads. Tiles of keys begin at the row's content, so that each lies inside a block.
"""

import math

import torch
import triton
import triton.language as tl

from .tiles import full_forward_tiles, is_hopper, number_of_splits
from .triton_launch import LOG2_E, dot, empty_outputs, first_slot, merge_splits, options_of, strides_of
from .triton_selection import Selection, select

# Queries of the whole batch whose maxima are held at once: 4 bytes for each of their heads and blocks.
CHUNK_QUERIES = 4096


@triton.jit
def rows_of(tile, kv_head, offset, queries, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """Of each row of a tile: whether there is one, its query, head and slot; of all: the last slot."""
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    query = rows // GROUP
    last = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // GROUP, queries - 1) + offset
    return rows < queries * GROUP, query, kv_head * GROUP + rows % GROUP, query + offset, last


@triton.jit
def _full_forward(
    q_ptr, k_ptr, v_ptr, start_ptr, out_ptr, lse_ptr, maxima_ptr,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    out_stride_s, out_stride_b, out_stride_h, out_stride_n, lse_stride_s, lse_stride_b, lse_stride_h,
    queries, blocks, offset, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    SELECT: tl.constexpr, BLOCK_SIZE: tl.constexpr, HAS_START: tl.constexpr, SPLITS: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest rows first
    pair = tl.program_id(1).to(tl.int64)
    batch, kv_head = pair // KV_HEADS, pair % KV_HEADS
    split = tl.program_id(2)

    live, query, head, slot, last = rows_of(tile, kv_head, offset, queries, GROUP, BLOCK_M)
    start = first_slot(start_ptr, batch, HAS_START)
    low, high = start, last + 1
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
    if SELECT:
        rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        maxima_ptr += pair * blocks * queries * GROUP

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    block_top = top
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
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
        logits = tl.where(visible, logits * scale_log2, float("-inf"))

        tile_top = tl.max(logits, 1)
        if SELECT:
            # Of a block with several tiles, the last to be written is the maximum of all.
            inside = (begin - start) % BLOCK_SIZE
            block_top = tl.where(inside == 0, tile_top, tl.maximum(block_top, tile_top))
            block = ((begin - start) // BLOCK_SIZE).to(tl.int64)
            tl.store(maxima_ptr + block * (queries * GROUP) + rows, block_top, mask=live)
        new_top = tl.maximum(top, tile_top)
        finite = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(logits - finite[:, None])
        shrink = tl.exp2(top - finite)
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(v_ptrs, mask=there[:, None] & (dv < DV)[None, :], other=0.0)
        acc = dot(weights.to(values.dtype), values, acc * shrink[:, None], UPCAST, PRECISION)
        v_ptrs += BLOCK_N * v_stride_n
        top = new_top

    # A row that sees no key is zero.
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    lse = tl.where(total == 0.0, float("-inf"), top + tl.log2(tl.where(total == 0.0, 1.0, total)))
    lse_ptr += split * lse_stride_s + batch * lse_stride_b
    tl.store(lse_ptr + head * lse_stride_h + query, lse, mask=live)
    out_ptr += split.to(tl.int64) * out_stride_s + batch * out_stride_b
    row_ptr = out_ptr + head * out_stride_h + query.to(tl.int64) * out_stride_n
    acc = acc.to(out_ptr.dtype.element_ty)
    tl.store(row_ptr[:, None] + dv[None, :], acc, mask=live[:, None] & (dv < DV)[None, :])


def full_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    kv_start: torch.Tensor | None,
    q_offset: int,
    selection: tuple[int, ...] | None,
    splits: int | None = None,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """
    Args:
        q, k, v, kv_start, q_offset: as in `full_attention_with_block_scores`.
        selection: the fields of `Selection`; None: no blocks are named.
        splits: of the keys, where all queries are one chunk; None: as `tiles.py` says.
        chunk: queries of each row whose maxima are held at once; None: 4096 in all rows of the batch together.

    Returns:
        The output `[B, H, n, dv]`, whose memory is laid out as `[B, n, H, dv]`, the base-2 logarithm of each row's sum of
        exponentials `[B, H, n]`, and the blocks `[B, K, n, topk]`, or None.
    """
    batch, heads, queries = q.shape[:3]
    kv_heads, group = k.shape[1], heads // k.shape[1]
    chosen = None if selection is None else Selection(*selection)
    chunk = queries if chosen is None else min(queries, chunk or max(1, CHUNK_QUERIES // batch))
    tiles = full_forward_tiles(q.dtype, q.shape[-1], chunk * group, is_hopper(q.device))
    if chosen is not None:
        tiles = tiles.within(chosen.block_size)
    programs = triton.cdiv(chunk * group, tiles.rows) * batch * kv_heads
    if chunk < queries:
        splits = 1
    splits = splits or number_of_splits(programs, (q_offset + queries) // (4 * tiles.keys), q.device)

    block_size, topk = (tiles.keys, 0) if chosen is None else (chosen.block_size, chosen.topk)
    held_blocks = 0 if chosen is None else triton.cdiv(q_offset + queries, block_size)
    maxima = torch.empty(batch * kv_heads * held_blocks * chunk * group, device=q.device, dtype=torch.float32)
    idx = torch.empty((batch, kv_heads, queries, topk), device=q.device, dtype=torch.int32)
    out, lse = empty_outputs(q, v, splits)
    for begin in range(0, queries, chunk):
        end, offset = min(begin + chunk, queries), q_offset + begin
        blocks = triton.cdiv(q_offset + end, block_size)
        part = q[:, :, begin:end], out[:, :, :, begin:end], lse[..., begin:end]
        _full_forward[(triton.cdiv((end - begin) * group, tiles.rows), batch * kv_heads, splits)](
            part[0], k, v, lse if kv_start is None else kv_start, *part[1:], maxima,
            *strides_of(part[0], k, v, *part[1:]), end - begin, blocks, offset, scale * LOG2_E,
            **options_of(q, k, v, kv_start, tiles),
            SELECT=chosen is not None, BLOCK_SIZE=block_size, SPLITS=splits,
        )  # fmt: skip
        if splits > 1:
            out, lse = merge_splits(out, lse, q.dtype)
        if chosen is not None:
            shape = (batch, kv_heads, blocks, end - begin, group)
            of_chunk = maxima[: math.prod(shape)].view(shape)
            select(of_chunk, lse[0, ..., begin:end], kv_start, offset, chosen, idx[:, :, begin:end])
    return out[0], lse[0], None if chosen is None else idx
