"""
Backward kernels of the sparse attention. A query's gradient walks over its blocks, as the forward kernel does; a block's
gradients walk over the queries that chose it, from a sorted list: no atomics, and the same bits in every run.
"""

import torch
import triton
import triton.language as tl

from ._shared.tiles import is_hopper
from ._shared.triton_launch import LOG2_E, dot, first_slot, options_of, strides_of
from ._shared.triton_row_sums import sink_gradient
from .tiles import key_gradient_tiles, sparse_tiles
from .triton_sparse_forward import chosen_slots


@triton.jit
def _sparse_query_gradient(
    q_ptr, k_ptr, v_ptr, grad_ptr, idx_ptr, start_ptr, lse_ptr, delta_ptr, q_grad_ptr,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    grad_stride_b, grad_stride_h, grad_stride_n, idx_stride_b, idx_stride_h, idx_stride_n,
    q_grad_stride_b, q_grad_stride_h, q_grad_stride_n,
    queries, offset, scale_log2, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, TOPK: tl.constexpr, HAS_START: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1).to(tl.int64)
    batch, kv_head = pair // KV_HEADS, pair % KV_HEADS
    start = first_slot(start_ptr, batch, HAS_START)
    slot = tl.program_id(0) + offset

    rows = tl.arange(0, BLOCK_M)
    live, head = rows < GROUP, kv_head * GROUP + rows
    d1, dv, cols = tl.arange(0, D1), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_N)
    channel = (dv < DV)[None, :]
    row_ptr = q_ptr + batch * q_stride_b + head * q_stride_h + query * q_stride_n
    q1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
    q_grad1 = tl.zeros([BLOCK_M, D1], tl.float32)
    if D2:
        d2 = D1 + tl.arange(0, D2)
        q2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)
        q_grad2 = tl.zeros([BLOCK_M, D2], tl.float32)
    row_ptr = grad_ptr + batch * grad_stride_b + head * grad_stride_h + query * grad_stride_n
    grad = tl.load(row_ptr[:, None] + dv[None, :], mask=live[:, None] & channel, other=0.0)
    row = (batch * KV_HEADS * GROUP + head) * queries + query
    lse = tl.load(lse_ptr + row, mask=live, other=0.0)
    delta = tl.load(delta_ptr + row, mask=live, other=0.0)
    k_ptr += batch * k_stride_b + kv_head * k_stride_h
    v_ptr += batch * v_stride_b + kv_head * v_stride_h
    idx_ptr += batch * idx_stride_b + kv_head * idx_stride_h + query * idx_stride_n

    for step in range(TOPK * (BLOCK_SIZE // BLOCK_N)):
        columns, visible = chosen_slots(idx_ptr, step, start, slot, cols, BLOCK_SIZE, BLOCK_N)
        column = columns.to(tl.int64)[:, None]
        there = visible[:, None]
        k1 = tl.load(k_ptr + column * k_stride_n + d1[None, :], mask=there, other=0.0)
        logits = dot(q1, tl.trans(k1), None, UPCAST, PRECISION)
        if D2:
            k2 = tl.load(k_ptr + column * k_stride_n + d2[None, :], mask=there, other=0.0)
            logits = dot(q2, tl.trans(k2), logits, UPCAST, PRECISION)
        weights = tl.where(visible[None, :], tl.exp2(logits * scale_log2 - lse[:, None]), 0.0)
        values = tl.load(v_ptr + column * v_stride_n + dv[None, :], mask=there & channel, other=0.0)
        logit_grad = weights * (dot(grad, tl.trans(values), None, UPCAST, PRECISION) - delta[:, None])
        logit_grad = logit_grad.to(k1.dtype)
        q_grad1 = dot(logit_grad, k1, q_grad1, UPCAST, PRECISION)
        if D2:
            q_grad2 = dot(logit_grad, k2, q_grad2, UPCAST, PRECISION)

    dtype = q_grad_ptr.dtype.element_ty
    row_ptr = q_grad_ptr + batch * q_grad_stride_b + head * q_grad_stride_h + query * q_grad_stride_n
    tl.store(row_ptr[:, None] + d1[None, :], (q_grad1 * scale).to(dtype), mask=live[:, None])
    if D2:
        tl.store(row_ptr[:, None] + d2[None, :], (q_grad2 * scale).to(dtype), mask=live[:, None])


@triton.jit
def _sparse_key_gradient(
    q_ptr, k_ptr, v_ptr, grad_ptr, choosing_ptr, first_ptr, start_ptr, lse_ptr, delta_ptr, k_grad_ptr, v_grad_ptr,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    grad_stride_b, grad_stride_h, grad_stride_n,
    k_grad_stride_b, k_grad_stride_h, k_grad_stride_n, v_grad_stride_b, v_grad_stride_h, v_grad_stride_n,
    queries, blocks, offset, scale_log2, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, TOPK: tl.constexpr, HAS_START: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    batch, kv_head = pair // KV_HEADS, pair % KV_HEADS
    begin_slot = first_slot(start_ptr, batch, HAS_START) + tl.program_id(0) * BLOCK_N
    columns = begin_slot + tl.arange(0, BLOCK_N)
    there = columns < offset + queries
    first_ptr += pair * (blocks + 1) + tl.program_id(0) // (BLOCK_SIZE // BLOCK_N)
    first = tl.load(first_ptr)
    end_row = (tl.load(first_ptr + 1) - first) * GROUP
    choosing_ptr += pair * queries * TOPK + first

    d1, dv, steps = tl.arange(0, D1), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_M)
    channel = (dv < DV)[None, :]
    column = columns.to(tl.int64)[:, None]
    k_ptr += batch * k_stride_b + kv_head * k_stride_h
    k1 = tl.load(k_ptr + column * k_stride_n + d1[None, :], mask=there[:, None], other=0.0)
    k_grad1 = tl.zeros([BLOCK_N, D1], tl.float32)
    if D2:
        d2 = D1 + tl.arange(0, D2)
        k2 = tl.load(k_ptr + column * k_stride_n + d2[None, :], mask=there[:, None], other=0.0)
        k_grad2 = tl.zeros([BLOCK_N, D2], tl.float32)
    v_ptr += batch * v_stride_b + kv_head * v_stride_h
    values = tl.load(v_ptr + column * v_stride_n + dv[None, :], mask=there[:, None] & channel, other=0.0)
    v_grad = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
    q_ptr += batch * q_stride_b
    grad_ptr += batch * grad_stride_b

    for begin in range(0, end_row, BLOCK_M):
        rows = begin + steps
        live = rows < end_row
        query = tl.load(choosing_ptr + rows // GROUP, mask=live, other=0)
        head = kv_head * GROUP + rows % GROUP
        row_ptr = q_ptr + head * q_stride_h + query.to(tl.int64) * q_stride_n
        q1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
        logits = dot(k1, tl.trans(q1), None, UPCAST, PRECISION)
        if D2:
            q2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)
            logits = dot(k2, tl.trans(q2), logits, UPCAST, PRECISION)
        row = (batch * KV_HEADS * GROUP + head) * queries + query
        lse = tl.load(lse_ptr + row, mask=live, other=0.0)
        delta = tl.load(delta_ptr + row, mask=live, other=0.0)
        visible = (there[:, None] & live[None, :]) & (columns[:, None] <= (query + offset)[None, :])
        weights = tl.where(visible, tl.exp2(logits * scale_log2 - lse[None, :]), 0.0)
        row_ptr = grad_ptr + head * grad_stride_h + query.to(tl.int64) * grad_stride_n
        grad = tl.load(row_ptr[:, None] + dv[None, :], mask=live[:, None] & channel, other=0.0)
        v_grad = dot(weights.to(grad.dtype), grad, v_grad, UPCAST, PRECISION)
        logit_grad = weights * (dot(values, tl.trans(grad), None, UPCAST, PRECISION) - delta[None, :])
        logit_grad = logit_grad.to(q1.dtype)
        k_grad1 = dot(logit_grad, q1, k_grad1, UPCAST, PRECISION)
        if D2:
            k_grad2 = dot(logit_grad, q2, k_grad2, UPCAST, PRECISION)

    dtype = k_grad_ptr.dtype.element_ty
    k_grad_ptr += batch * k_grad_stride_b + kv_head * k_grad_stride_h
    k_grad_ptrs = k_grad_ptr + column * k_grad_stride_n
    tl.store(k_grad_ptrs + d1[None, :], (k_grad1 * scale).to(dtype), mask=there[:, None])
    if D2:
        tl.store(k_grad_ptrs + d2[None, :], (k_grad2 * scale).to(dtype), mask=there[:, None])
    v_grad_ptr += batch * v_grad_stride_b + kv_head * v_grad_stride_h
    v_grad_ptrs = v_grad_ptr + column * v_grad_stride_n + dv[None, :]
    tl.store(v_grad_ptrs, v_grad.to(dtype), mask=there[:, None] & channel)


def choosing_queries(idx: torch.Tensor, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    From the blocks of each query to the queries of each block.

    Returns:
        Queries by the block that they chose, in their own order, `[B, K, n * topk]`; where each block's begin in there, and
        where the last one's end, `[B, K, blocks + 1]`. Both int32.
    """
    block = torch.where(idx < 0, blocks, idx).flatten(2)
    ordered, place = block.sort(dim=-1, stable=True)
    edges = torch.arange(blocks + 1, device=idx.device, dtype=torch.int32).expand(*idx.shape[:2], -1).contiguous()
    return (place // idx.shape[-1]).int(), torch.searchsorted(ordered, edges, out_int32=True)


def sparse_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sinks: torch.Tensor | None,
    idx: torch.Tensor,
    lse: torch.Tensor,
    delta: torch.Tensor,
    scale: float,
    kv_start: torch.Tensor | None,
    q_offset: int,
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """
    Args:
        grad: gradient of the output, `[B, H, n, dv]`.
        lse: what `sparse_forward` returned.
        delta: of `delta_of`, `[B, H, n]`.

    Returns:
        Gradients of q, k, v and sinks, in their shapes and types: zero where no query chose a block.
    """
    batch, heads, queries = q.shape[:3]
    kv_heads, topk = k.shape[1], idx.shape[-1]
    assert lse.shape == delta.shape == (batch, heads, queries)
    assert lse.is_contiguous()
    assert delta.is_contiguous()
    q_grad, k_grad, v_grad = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    start = lse if kv_start is None else kv_start
    scales = scale * LOG2_E, scale

    tiles = sparse_tiles(q.dtype, heads // kv_heads).within(block_size)
    _sparse_query_gradient[(queries, batch * kv_heads)](
        q, k, v, grad, idx, start, lse, delta, q_grad, *strides_of(q, k, v, grad, idx, q_grad),
        queries, q_offset, *scales, **options_of(q, k, v, kv_start, tiles), BLOCK_SIZE=block_size, TOPK=topk,
    )  # fmt: skip
    tiles = key_gradient_tiles(q.dtype, q.shape[-1], is_hopper(q.device)).within(block_size)
    blocks = triton.cdiv(q_offset + queries, block_size)
    choosing, first = choosing_queries(idx, blocks)
    _sparse_key_gradient[(blocks * (block_size // tiles.keys), batch * kv_heads)](
        q, k, v, grad, choosing, first, start, lse, delta, k_grad, v_grad, *strides_of(q, k, v, grad, k_grad, v_grad),
        queries, blocks, q_offset, *scales, **options_of(q, k, v, kv_start, tiles), BLOCK_SIZE=block_size, TOPK=topk,
    )  # fmt: skip
    return q_grad, k_grad, v_grad, sink_gradient(sinks, lse, delta)
