"""
Backward kernels of causal attention over all keys, or those of a window. Each gradient is written by one program that adds up
its parts in a fixed order: no atomics, and the same bits in every run. Logits are computed again from the saved lse.
"""

import torch
import triton
import triton.language as tl

from .tiles import Tiles
from .triton_dense_forward import place, rows_of, seen_slots
from .triton_launch import LOG2_E, dot, first_slot, options_of, strides_of


@triton.jit
def _dense_query_gradient(
    q_ptr, k_ptr, v_ptr, grad_ptr, start_ptr, lse_ptr, delta_ptr, q_grad_ptr,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    grad_stride_b, grad_stride_h, grad_stride_n, q_grad_stride_b, q_grad_stride_h, q_grad_stride_n,
    queries, offset, window, scale_log2, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    WINDOWED: tl.constexpr, HAS_START: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile, batch, kv_head = place(WINDOWED, KV_HEADS)

    live, query, head, slot = rows_of(tile, kv_head, offset, queries, GROUP, BLOCK_M)
    start = first_slot(start_ptr, batch, HAS_START)
    low, high = seen_slots(tile, offset, queries, window, start, GROUP, BLOCK_M, WINDOWED)

    d1, dv, cols = tl.arange(0, D1), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_N)
    channel = (dv < DV)[None, :]
    row_ptr = q_ptr + batch * q_stride_b + head * q_stride_h + query.to(tl.int64) * q_stride_n
    q1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
    q_grad1 = tl.zeros([BLOCK_M, D1], tl.float32)
    k_ptr += batch * k_stride_b + kv_head * k_stride_h + low.to(tl.int64) * k_stride_n
    k1_ptrs = k_ptr + cols[:, None] * k_stride_n + d1[None, :]
    if D2:
        d2 = D1 + tl.arange(0, D2)
        q2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)
        q_grad2 = tl.zeros([BLOCK_M, D2], tl.float32)
        k2_ptrs = k_ptr + cols[:, None] * k_stride_n + d2[None, :]
    v_ptr += batch * v_stride_b + kv_head * v_stride_h + low.to(tl.int64) * v_stride_n
    v_ptrs = v_ptr + cols[:, None] * v_stride_n + dv[None, :]
    row_ptr = grad_ptr + batch * grad_stride_b + head * grad_stride_h + query.to(tl.int64) * grad_stride_n
    grad = tl.load(row_ptr[:, None] + dv[None, :], mask=live[:, None] & channel, other=0.0)
    row = (batch * KV_HEADS * GROUP + head) * queries + query
    lse = tl.load(lse_ptr + row, mask=live, other=0.0)
    delta = tl.load(delta_ptr + row, mask=live, other=0.0)

    for begin in range(low, high, BLOCK_N):
        columns = begin + cols
        there = columns < high
        k1 = tl.load(k1_ptrs, mask=there[:, None], other=0.0)
        logits = dot(q1, tl.trans(k1), None, UPCAST, PRECISION)
        if D2:
            k2 = tl.load(k2_ptrs, mask=there[:, None], other=0.0)
            logits = dot(q2, tl.trans(k2), logits, UPCAST, PRECISION)
        visible = there[None, :] & (columns[None, :] <= slot[:, None])
        if WINDOWED:
            visible &= columns[None, :] > slot[:, None] - window
        weights = tl.where(visible, tl.exp2(logits * scale_log2 - lse[:, None]), 0.0)
        values = tl.load(v_ptrs, mask=there[:, None] & channel, other=0.0)
        logit_grad = weights * (dot(grad, tl.trans(values), None, UPCAST, PRECISION) - delta[:, None])
        logit_grad = logit_grad.to(k1.dtype)
        q_grad1 = dot(logit_grad, k1, q_grad1, UPCAST, PRECISION)
        k1_ptrs += BLOCK_N * k_stride_n
        if D2:
            q_grad2 = dot(logit_grad, k2, q_grad2, UPCAST, PRECISION)
            k2_ptrs += BLOCK_N * k_stride_n
        v_ptrs += BLOCK_N * v_stride_n

    dtype = q_grad_ptr.dtype.element_ty
    row_ptr = q_grad_ptr + batch * q_grad_stride_b + head * q_grad_stride_h + query.to(tl.int64) * q_grad_stride_n
    tl.store(row_ptr[:, None] + d1[None, :], (q_grad1 * scale).to(dtype), mask=live[:, None])
    if D2:
        tl.store(row_ptr[:, None] + d2[None, :], (q_grad2 * scale).to(dtype), mask=live[:, None])


@triton.jit
def _dense_key_gradient(
    q_ptr, k_ptr, v_ptr, grad_ptr, start_ptr, lse_ptr, delta_ptr, k_grad_ptr, v_grad_ptr,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    grad_stride_b, grad_stride_h, grad_stride_n,
    k_grad_stride_b, k_grad_stride_h, k_grad_stride_n, v_grad_stride_b, v_grad_stride_h, v_grad_stride_n,
    queries, slots, offset, window, scale_log2, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    WINDOWED: tl.constexpr, HAS_START: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    batch, kv_head = pair // KV_HEADS, pair % KV_HEADS
    begin_slot = tl.program_id(0) * BLOCK_N
    columns = begin_slot + tl.arange(0, BLOCK_N)
    there = columns < offset + queries
    begin_row = tl.maximum(begin_slot - offset, 0) * GROUP
    end_row = queries * GROUP
    if WINDOWED:
        end_row = tl.maximum(tl.minimum(begin_slot + BLOCK_N - 1 + window - offset, queries), 0) * GROUP
    if HAS_START:
        start = tl.load(start_ptr + batch)
        there &= columns >= start
        end_row = tl.where(begin_slot + BLOCK_N > start, end_row, begin_row)

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

    for begin in range(begin_row, end_row, BLOCK_M):
        rows = begin + steps
        live = rows < end_row
        query = rows // GROUP
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
        slot = query + offset
        visible = (there[:, None] & live[None, :]) & (columns[:, None] <= slot[None, :])
        if WINDOWED:
            visible &= columns[:, None] > slot[None, :] - window
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
    inside = (columns < slots)[:, None]
    k_grad_ptr += batch * k_grad_stride_b + kv_head * k_grad_stride_h
    k_grad_ptrs = k_grad_ptr + column * k_grad_stride_n
    tl.store(k_grad_ptrs + d1[None, :], (k_grad1 * scale).to(dtype), mask=inside)
    if D2:
        tl.store(k_grad_ptrs + d2[None, :], (k_grad2 * scale).to(dtype), mask=inside)
    v_grad_ptr += batch * v_grad_stride_b + kv_head * v_grad_stride_h
    v_grad_ptrs = v_grad_ptr + column * v_grad_stride_n + dv[None, :]
    tl.store(v_grad_ptrs, v_grad.to(dtype), mask=inside & channel)


def dense_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse: torch.Tensor,
    delta: torch.Tensor,
    query_tiles: Tiles,
    key_tiles: Tiles,
    scale: float,
    kv_start: torch.Tensor | None,
    q_offset: int,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Args:
        grad: gradient of the output, `[B, H, n, dv]`.
        lse: what `dense_forward` wrote, `[B, H, n]`.
        delta: of `delta_of`, `[B, H, n]`.
        query_tiles, key_tiles: of the kernels for the query's gradient, and for those of keys and values.

    Returns:
        Gradients of q, k and v, in their shapes and types: zero where no query sees a key.
    """
    batch, heads, queries = q.shape[:3]
    kv_heads, slots = k.shape[1:3]
    assert lse.shape == delta.shape == (batch, heads, queries)
    assert lse.is_contiguous()
    assert delta.is_contiguous()
    q_grad, k_grad, v_grad = (torch.empty_like(tensor) for tensor in (q, k, v))
    start = lse if kv_start is None else kv_start
    numbers = q_offset, window or 0, scale * LOG2_E, scale
    windowed = window is not None

    _dense_query_gradient[(triton.cdiv(queries * heads // kv_heads, query_tiles.rows), batch * kv_heads)](
        q, k, v, grad, start, lse, delta, q_grad, *strides_of(q, k, v, grad, q_grad),
        queries, *numbers, **options_of(q, k, v, kv_start, query_tiles), WINDOWED=windowed,
    )  # fmt: skip
    _dense_key_gradient[(triton.cdiv(slots, key_tiles.keys), batch * kv_heads)](
        q, k, v, grad, start, lse, delta, k_grad, v_grad, *strides_of(q, k, v, grad, k_grad, v_grad),
        queries, slots, *numbers, **options_of(q, k, v, kv_start, key_tiles), WINDOWED=windowed,
    )  # fmt: skip
    return q_grad, k_grad, v_grad
