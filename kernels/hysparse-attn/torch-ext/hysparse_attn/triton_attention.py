"""The Triton kernels as two differentiable operations. Between kernels, lse is a base-2 logarithm; outside, a natural one."""

import torch
from torch.autograd.function import once_differentiable

from .triton_delta import delta_of
from .triton_full_backward import full_backward
from .triton_full_forward import full_forward
from .triton_launch import INTERPRETED, LOG2_E
from .triton_sparse_backward import sparse_backward
from .triton_sparse_forward import sparse_forward

__all__ = ["INTERPRETED", "BlockSparseAttention", "FullAttention"]


class FullAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, scale, kv_start, q_offset, selection):
        q, k, v = map(_with_channels_side_by_side, (q, k, v))
        out, lse, idx = full_forward(q, k, v, scale, kv_start, q_offset, selection)
        ctx.save_for_backward(q, k, v, kv_start, out, lse)
        ctx.place = scale, q_offset
        ctx.set_materialize_grads(False)
        if idx is not None:
            ctx.mark_non_differentiable(idx)
        return out, lse / LOG2_E, idx

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, lse_grad, _):
        q, k, v, kv_start, out, lse = ctx.saved_tensors
        scale, q_offset = ctx.place
        grad = torch.zeros_like(out) if grad is None else _with_channels_side_by_side(grad)
        delta = delta_of(out, lse, grad, lse_grad)
        return *full_backward(grad, q, k, v, lse, delta, scale, kv_start, q_offset), None, None, None, None


class BlockSparseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, sinks, idx, scale, kv_start, q_offset, block_size):
        q, k, v, idx = map(_with_channels_side_by_side, (q, k, v, idx))
        out, lse = sparse_forward(q, k, v, sinks, idx, scale, kv_start, q_offset, block_size)
        ctx.save_for_backward(q, k, v, sinks, idx, kv_start, out, lse)
        ctx.place = scale, q_offset, block_size
        ctx.set_materialize_grads(False)
        return out, lse / LOG2_E

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, lse_grad):
        q, k, v, sinks, idx, kv_start, out, lse = ctx.saved_tensors
        scale, q_offset, block_size = ctx.place
        grad = torch.zeros_like(out) if grad is None else _with_channels_side_by_side(grad)
        delta = delta_of(out, lse, grad, lse_grad)
        gradients = sparse_backward(grad, q, k, v, sinks, idx, lse, delta, scale, kv_start, q_offset, block_size)
        return *gradients, None, None, None, None, None


def _with_channels_side_by_side(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
