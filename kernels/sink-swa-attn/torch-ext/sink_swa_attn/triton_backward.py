"""
Backward kernels. Each gradient is written by one program that adds up its parts in a fixed order: no atomics, and the
same bits in every run. Logits are computed again from the saved sums of exponentials.
"""

import torch
import triton
import triton.language as tl

from .tiles import Tiles, is_hopper, key_gradient_tiles, query_gradient_tiles
from .triton_forward import LOG2_E, dot, dot_options, head_options, place, rows_of, seen_keys


@triton.jit
def _delta(
    out_ptr, grad_ptr, delta_ptr,
    out_stride_b, out_stride_h, out_stride_n, grad_stride_b, grad_stride_h, grad_stride_n,
    query_length, HEADS: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """delta_i = sum_d out_id grad_id, what a softmax subtracts from the gradients of its weights."""
    pair = tl.program_id(1).to(tl.int64)
    batch, head = pair // HEADS, pair % HEADS
    index = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    dv = tl.arange(0, BLOCK_DV)
    there = (index < query_length)[:, None] & (dv < DV)[None, :]
    row = index.to(tl.int64)[:, None]
    out_ptr += batch * out_stride_b + head * out_stride_h
    grad_ptr += batch * grad_stride_b + head * grad_stride_h
    out = tl.load(out_ptr + row * out_stride_n + dv[None, :], mask=there, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * grad_stride_n + dv[None, :], mask=there, other=0.0).to(tl.float32)
    tl.store(delta_ptr + pair * query_length + index, tl.sum(out * grad, 1), mask=index < query_length)


@triton.jit
def _query_gradient(
    query_ptr, key_ptr, value_ptr, grad_ptr, start_ptr, lse_ptr, delta_ptr, query_grad_ptr,
    query_stride_b, query_stride_h, query_stride_n,
    key_stride_b, key_stride_h, key_stride_n,
    value_stride_b, value_stride_h, value_stride_n,
    grad_stride_b, grad_stride_h, grad_stride_n,
    query_grad_stride_b, query_grad_stride_h, query_grad_stride_n,
    query_length, key_length, window, scale_log2, scaling,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    WINDOWED: tl.constexpr, HAS_START: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile, batch, kv_head = place(WINDOWED, KV_HEADS)

    live, index, head, position, first, last = rows_of(tile, kv_head, query_length, key_length, GROUP, BLOCK_M)
    low, high = seen_keys(first, last, start_ptr, batch, window, WINDOWED, HAS_START)

    d1, dv, cols = tl.arange(0, D1), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_N)
    channel = (dv < DV)[None, :]
    row_ptr = query_ptr + batch * query_stride_b + head * query_stride_h + index.to(tl.int64) * query_stride_n
    query1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
    query_grad1 = tl.zeros([BLOCK_M, D1], tl.float32)
    key_ptr += batch * key_stride_b + kv_head * key_stride_h + low.to(tl.int64) * key_stride_n
    key1_ptrs = key_ptr + cols[:, None] * key_stride_n + d1[None, :]
    if D2:
        d2 = D1 + tl.arange(0, D2)
        query2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)
        query_grad2 = tl.zeros([BLOCK_M, D2], tl.float32)
        key2_ptrs = key_ptr + cols[:, None] * key_stride_n + d2[None, :]
    value_ptr += batch * value_stride_b + kv_head * value_stride_h + low.to(tl.int64) * value_stride_n
    value_ptrs = value_ptr + cols[:, None] * value_stride_n + dv[None, :]
    row_ptr = grad_ptr + batch * grad_stride_b + head * grad_stride_h + index.to(tl.int64) * grad_stride_n
    grad = tl.load(row_ptr[:, None] + dv[None, :], mask=live[:, None] & channel, other=0.0)
    row = (batch * KV_HEADS * GROUP + head) * query_length + index
    lse = tl.load(lse_ptr + row, mask=live, other=0.0)
    delta = tl.load(delta_ptr + row, mask=live, other=0.0)

    for begin in range(low, high, BLOCK_N):
        columns = begin + cols
        there = columns < high
        key1 = tl.load(key1_ptrs, mask=there[:, None], other=0.0)
        logits = dot(query1, tl.trans(key1), None, UPCAST, PRECISION)
        if D2:
            key2 = tl.load(key2_ptrs, mask=there[:, None], other=0.0)
            logits = dot(query2, tl.trans(key2), logits, UPCAST, PRECISION)
        visible = there[None, :] & (columns[None, :] <= position[:, None])
        if WINDOWED:
            visible &= columns[None, :] > position[:, None] - window
        weights = tl.where(visible, tl.exp2(logits * scale_log2 - lse[:, None]), 0.0)
        values = tl.load(value_ptrs, mask=there[:, None] & channel, other=0.0)
        logit_grad = weights * (dot(grad, tl.trans(values), None, UPCAST, PRECISION) - delta[:, None])
        logit_grad = logit_grad.to(key1.dtype)
        query_grad1 = dot(logit_grad, key1, query_grad1, UPCAST, PRECISION)
        key1_ptrs += BLOCK_N * key_stride_n
        if D2:
            query_grad2 = dot(logit_grad, key2, query_grad2, UPCAST, PRECISION)
            key2_ptrs += BLOCK_N * key_stride_n
        value_ptrs += BLOCK_N * value_stride_n

    dtype = query_grad_ptr.dtype.element_ty
    row_ptr = query_grad_ptr + batch * query_grad_stride_b + head * query_grad_stride_h
    row_ptr += index.to(tl.int64) * query_grad_stride_n
    tl.store(row_ptr[:, None] + d1[None, :], (query_grad1 * scaling).to(dtype), mask=live[:, None])
    if D2:
        tl.store(row_ptr[:, None] + d2[None, :], (query_grad2 * scaling).to(dtype), mask=live[:, None])


@triton.jit
def _key_gradient(
    query_ptr, key_ptr, value_ptr, grad_ptr, start_ptr, lse_ptr, delta_ptr, key_grad_ptr, value_grad_ptr,
    query_stride_b, query_stride_h, query_stride_n,
    key_stride_b, key_stride_h, key_stride_n,
    value_stride_b, value_stride_h, value_stride_n,
    grad_stride_b, grad_stride_h, grad_stride_n,
    key_grad_stride_b, key_grad_stride_h, key_grad_stride_n,
    value_grad_stride_b, value_grad_stride_h, value_grad_stride_n,
    query_length, key_length, window, scale_log2, scaling,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    WINDOWED: tl.constexpr, HAS_START: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(1) // KV_HEADS).to(tl.int64)
    kv_head = (tl.program_id(1) % KV_HEADS).to(tl.int64)
    begin_key = tl.program_id(0) * BLOCK_N
    columns = begin_key + tl.arange(0, BLOCK_N)
    there = columns < key_length
    offset = key_length - query_length
    begin_row = tl.maximum(begin_key - offset, 0) * GROUP
    end_row = query_length * GROUP
    if WINDOWED:
        end_row = tl.maximum(tl.minimum(begin_key + BLOCK_N - 1 + window - offset, query_length), 0) * GROUP
    if HAS_START:
        start = tl.load(start_ptr + batch)
        there &= columns >= start
        end_row = tl.where(begin_key + BLOCK_N > start, end_row, begin_row)

    d1, dv, steps = tl.arange(0, D1), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_M)
    channel = (dv < DV)[None, :]
    column = columns.to(tl.int64)[:, None]
    key_ptr += batch * key_stride_b + kv_head * key_stride_h
    key1 = tl.load(key_ptr + column * key_stride_n + d1[None, :], mask=there[:, None], other=0.0)
    key_grad1 = tl.zeros([BLOCK_N, D1], tl.float32)
    if D2:
        d2 = D1 + tl.arange(0, D2)
        key2 = tl.load(key_ptr + column * key_stride_n + d2[None, :], mask=there[:, None], other=0.0)
        key_grad2 = tl.zeros([BLOCK_N, D2], tl.float32)
    value_ptr += batch * value_stride_b + kv_head * value_stride_h
    values = tl.load(value_ptr + column * value_stride_n + dv[None, :], mask=there[:, None] & channel, other=0.0)
    value_grad = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
    query_ptr += batch * query_stride_b
    grad_ptr += batch * grad_stride_b

    for begin in range(begin_row, end_row, BLOCK_M):
        rows = begin + steps
        live = rows < end_row
        index = rows // GROUP
        head = kv_head * GROUP + rows % GROUP
        row_ptr = query_ptr + head * query_stride_h + index.to(tl.int64) * query_stride_n
        query1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
        logits = dot(key1, tl.trans(query1), None, UPCAST, PRECISION)
        if D2:
            query2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)
            logits = dot(key2, tl.trans(query2), logits, UPCAST, PRECISION)
        row = (batch * KV_HEADS * GROUP + head) * query_length + index
        lse = tl.load(lse_ptr + row, mask=live, other=0.0)
        delta = tl.load(delta_ptr + row, mask=live, other=0.0)
        position = index + offset
        visible = (there[:, None] & live[None, :]) & (columns[:, None] <= position[None, :])
        if WINDOWED:
            visible &= columns[:, None] > position[None, :] - window
        weights = tl.where(visible, tl.exp2(logits * scale_log2 - lse[None, :]), 0.0)
        row_ptr = grad_ptr + head * grad_stride_h + index.to(tl.int64) * grad_stride_n
        grad = tl.load(row_ptr[:, None] + dv[None, :], mask=live[:, None] & channel, other=0.0)
        value_grad = dot(weights.to(grad.dtype), grad, value_grad, UPCAST, PRECISION)
        logit_grad = weights * (dot(values, tl.trans(grad), None, UPCAST, PRECISION) - delta[None, :])
        logit_grad = logit_grad.to(query1.dtype)
        key_grad1 = dot(logit_grad, query1, key_grad1, UPCAST, PRECISION)
        if D2:
            key_grad2 = dot(logit_grad, query2, key_grad2, UPCAST, PRECISION)

    dtype = key_grad_ptr.dtype.element_ty
    inside = (columns < key_length)[:, None]
    key_grad_ptr += batch * key_grad_stride_b + kv_head * key_grad_stride_h
    key_grad_ptrs = key_grad_ptr + column * key_grad_stride_n
    tl.store(key_grad_ptrs + d1[None, :], (key_grad1 * scaling).to(dtype), mask=inside)
    if D2:
        tl.store(key_grad_ptrs + d2[None, :], (key_grad2 * scaling).to(dtype), mask=inside)
    value_grad_ptr += batch * value_grad_stride_b + kv_head * value_grad_stride_h
    value_grad_ptrs = value_grad_ptr + column * value_grad_stride_n + dv[None, :]
    tl.store(value_grad_ptrs, value_grad.to(dtype), mask=inside & channel)


def _launch_options(tiles: Tiles) -> dict:
    return {
        "BLOCK_M": tiles.rows,
        "BLOCK_N": tiles.keys,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }


def backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
    window: int | None,
    scaling: float,
    kv_start: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """
    Args:
        grad: gradient of the output, `[B, H, Nq, Dv]`.
        out, lse: what `forward` returned.

    Returns:
        Gradients of query, key, value and sinks, in their shapes and types.
    """
    batch, heads, query_length, v_head_dim = grad.shape
    kv_heads, key_length = key.shape[1:3]
    assert grad.shape == out.shape
    assert lse.shape == (batch, heads, query_length)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    block_dv = triton.next_power_of_2(v_head_dim)
    delta = torch.empty_like(lse)
    _delta[(triton.cdiv(query_length, 32), batch * heads)](
        out, grad, delta, *out.stride()[:3], *grad.stride()[:3], query_length,
        HEADS=heads, DV=v_head_dim, BLOCK_DV=block_dv, BLOCK_M=32, num_warps=4,
    )  # fmt: skip

    query_grad, key_grad, value_grad = (torch.empty_like(tensor) for tensor in (query, key, value))
    start = lse if kv_start is None else kv_start
    strides = [stride for tensor in (query, key, value, grad) for stride in tensor.stride()[:3]]
    sizes = (query_length, key_length, window or 0, scaling * LOG2_E, scaling)
    options = {
        **head_options(query, key, value),
        **dot_options(query),
        "WINDOWED": window is not None,
        "HAS_START": kv_start is not None,
    }
    tiles = query_gradient_tiles(query.dtype, query.shape[-1], is_hopper(query.device))
    rows = query_length * (heads // kv_heads)
    _query_gradient[(triton.cdiv(rows, tiles.rows), batch * kv_heads)](
        query, key, value, grad, start, lse, delta, query_grad,
        *strides, *query_grad.stride()[:3], *sizes, **options, **_launch_options(tiles),
    )  # fmt: skip
    tiles = key_gradient_tiles(query.dtype, query.shape[-1], is_hopper(query.device))
    _key_gradient[(triton.cdiv(key_length, tiles.keys), batch * kv_heads)](
        query, key, value, grad, start, lse, delta, key_grad, value_grad,
        *strides, *key_grad.stride()[:3], *value_grad.stride()[:3], *sizes, **options, **_launch_options(tiles),
    )  # fmt: skip

    sink_grad = None
    if sinks is not None:
        share = torch.exp2(sinks.float()[:, None] * LOG2_E - lse)
        share = torch.where(lse == float("-inf"), 0.0, share)
        sink_grad = -(share * delta).sum(dim=(0, 2)).to(sinks.dtype)
    return query_grad, key_grad, value_grad, sink_grad
