"""The sums over rows that gradients of a softmax need: delta, and the share of a sink."""

import torch
import triton
import triton.language as tl

from .triton_launch import LOG2_E, strides_of

ROWS = 32


@triton.jit
def _delta(
    out_ptr, grad_ptr, delta_ptr,
    out_stride_b, out_stride_h, out_stride_n, grad_stride_b, grad_stride_h, grad_stride_n,
    queries, HEADS: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    batch, head = pair // HEADS, pair % HEADS
    query = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    dv = tl.arange(0, BLOCK_DV)
    there = (query < queries)[:, None] & (dv < DV)[None, :]
    row = query.to(tl.int64)[:, None]
    out_ptr += batch * out_stride_b + head * out_stride_h
    grad_ptr += batch * grad_stride_b + head * grad_stride_h
    out = tl.load(out_ptr + row * out_stride_n + dv[None, :], mask=there, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * grad_stride_n + dv[None, :], mask=there, other=0.0).to(tl.float32)
    tl.store(delta_ptr + pair * queries + query, tl.sum(out * grad, 1), mask=query < queries)


def delta_of(
    out: torch.Tensor, lse: torch.Tensor, grad: torch.Tensor, lse_grad: torch.Tensor | None = None
) -> torch.Tensor:
    """
    What a softmax subtracts from the gradients of its weights, delta_i = sum_d out_id grad_id: `[B, H, n]`. The gradient of
    lse goes to the logits in proportion to the weights: it is subtracted here.
    """
    batch, heads, queries, v_head_dim = out.shape
    delta = torch.empty((batch, heads, queries), device=out.device, dtype=torch.float32)
    _delta[(triton.cdiv(queries, ROWS), batch * heads)](
        out, grad, delta, *strides_of(out, grad), queries,
        HEADS=heads, DV=v_head_dim, BLOCK_DV=triton.next_power_of_2(v_head_dim), BLOCK_M=ROWS, num_warps=4,
    )  # fmt: skip
    return delta if lse_grad is None else torch.where(lse == float("-inf"), delta, delta - lse_grad)


def sink_gradient(sinks: torch.Tensor | None, lse: torch.Tensor, delta: torch.Tensor) -> torch.Tensor | None:
    """`[H]`, of sinks whose share is in `lse`, `[B, H, n]`."""
    if sinks is None:
        return None
    share = torch.exp2(sinks.float()[:, None] * LOG2_E - lse)
    share = torch.where(lse == float("-inf"), 0.0, share)
    return -(share * delta).sum(dim=(0, 2)).to(sinks.dtype)
