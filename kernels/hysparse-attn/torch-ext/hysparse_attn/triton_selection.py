"""Which blocks each query takes: the maxima of a group's heads, normalised, and the best of them in a fixed order."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ._shared.triton_launch import first_slot

TILE = 512
# Less than any pair of a score and a block.
NONE = tl.constexpr(-(2**63) + 1)


class Selection(NamedTuple):
    """As in `full_attention_with_block_scores`."""

    block_size: int
    topk: int
    forced_local_blocks: int = 0
    forced_initial_blocks: int = 0


@triton.jit
def pair_of(score, block):
    """One integer that is larger for a larger score, and for the lower block where scores are equal."""
    bits = score.to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) + (0x7FFFFFFF - block)


@triton.jit
def block_of(pair):
    return tl.where(pair == NONE, -1, 0x7FFFFFFF - (pair & 0x7FFFFFFF)).to(tl.int32)


@triton.jit
def _select(
    maxima_ptr, lse_ptr, start_ptr, idx_ptr,
    lse_stride_b, lse_stride_h, lse_stride_n, idx_stride_b, idx_stride_h, idx_stride_n,
    queries, blocks, offset,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, BLOCK_SIZE: tl.constexpr, TOPK: tl.constexpr, RANKS: tl.constexpr,
    FORCED_LOCAL: tl.constexpr, FORCED_INITIAL: tl.constexpr, HAS_START: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    batch, kv_head = pair // KV_HEADS, pair % KV_HEADS
    position = query + offset - first_slot(start_ptr, batch, HAS_START)
    visible = tl.where(position < 0, 0, position // BLOCK_SIZE + 1)

    rows = queries * GROUP
    maxima_ptr += pair * blocks * rows + query * GROUP
    lse_ptr += batch * lse_stride_b + kv_head * GROUP * lse_stride_h + query * lse_stride_n
    rank = tl.arange(0, RANKS)
    best = tl.full([RANKS], NONE, tl.int64)
    for begin in range(0, visible, TILE):
        block = begin + tl.arange(0, TILE)
        there = block < visible
        score = tl.full([TILE], float("-inf"), tl.float32)
        for head in range(GROUP):
            maxima = tl.load(maxima_ptr + block.to(tl.int64) * rows + head, mask=there, other=float("-inf"))
            score = tl.maximum(score, maxima - tl.load(lse_ptr + head * lse_stride_h))
        forced = (block >= visible - FORCED_LOCAL) | (block < FORCED_INITIAL)
        found = tl.where(there, pair_of(tl.where(forced, float("inf"), score), block), NONE)
        earlier = best
        best = tl.full([RANKS], NONE, tl.int64)
        for place in range(TOPK):
            largest = tl.maximum(tl.max(found, 0), tl.max(earlier, 0))
            found = tl.where(found == largest, NONE, found)
            earlier = tl.where(earlier == largest, NONE, earlier)
            best = tl.where(rank == place, largest, best)

    idx_ptr += batch * idx_stride_b + kv_head * idx_stride_h + query.to(tl.int64) * idx_stride_n
    tl.store(idx_ptr + rank, block_of(best), mask=rank < TOPK)


def select(
    maxima: torch.Tensor,
    lse: torch.Tensor,
    kv_start: torch.Tensor | None,
    offset: int,
    selection: Selection,
    idx: torch.Tensor,
):
    """
    Writes `idx`, `[B, K, n, topk]`.

    Args:
        maxima: base-2 logits' largest in each block, `[B, K, blocks, n, G]`; what lies behind the block of a query is not read.
        lse: base-2 logarithm of the sums of exponentials, `[B, H, n]`.
        offset: slot of the first query.
    """
    batch, kv_heads, blocks, queries, group = maxima.shape
    assert maxima.is_contiguous()
    assert idx.shape == (batch, kv_heads, queries, selection.topk)
    assert idx.stride(-1) == 1
    _select[(queries, batch * kv_heads)](
        maxima, lse, lse if kv_start is None else kv_start, idx, *lse.stride(), *idx.stride()[:3],
        queries, blocks, offset,
        KV_HEADS=kv_heads, GROUP=group, BLOCK_SIZE=selection.block_size, TOPK=selection.topk,
        RANKS=triton.next_power_of_2(selection.topk), FORCED_LOCAL=selection.forced_local_blocks,
        FORCED_INITIAL=selection.forced_initial_blocks, HAS_START=kv_start is not None,
        TILE=min(TILE, triton.next_power_of_2(blocks)), num_warps=1,
    )  # fmt: skip
