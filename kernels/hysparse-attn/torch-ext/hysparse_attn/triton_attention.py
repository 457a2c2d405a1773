"""The Triton kernels as two differentiable operations. Between kernels, lse is a base-2 logarithm; outside, a natural one."""

import torch
from torch.autograd.function import once_differentiable

from ._shared.tiles import is_hopper, query_gradient_tiles
from ._shared.triton_dense_backward import dense_backward
from ._shared.triton_launch import INTERPRETED, LOG2_E, with_channels_side_by_side
from ._shared.triton_row_sums import delta_of
from .tiles import key_gradient_tiles
from .triton_full_forward import full_forward
from .triton_sparse_backward import sparse_backward
from .triton_sparse_forward import sparse_forward

__all__ = ["INTERPRETED", "BlockSparseAttention", "FullAttention"]


class FullAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, scale, kv_start, q_offset, selection):
        q, k, v = map(with_channels_side_by_side, (q, k, v))
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
        grad = torch.zeros_like(out) if grad is None else with_channels_side_by_side(grad)
        delta = delta_of(out, lse, grad, lse_grad)
        geometry = q.dtype, q.shape[-1], is_hopper(q.device)
        tiles = query_gradient_tiles(*geometry), key_gradient_tiles(*geometry)
        gradients = dense_backward(grad, q, k, v, lse, delta, *tiles, scale, kv_start, q_offset)
        return *gradients, None, None, None, None


class BlockSparseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, sinks, idx, scale, kv_start, q_offset, block_size):
        q, k, v, idx = map(with_channels_side_by_side, (q, k, v, idx))
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
        grad = torch.zeros_like(out) if grad is None else with_channels_side_by_side(grad)
        delta = delta_of(out, lse, grad, lse_grad)
        gradients = sparse_backward(grad, q, k, v, sinks, idx, lse, delta, scale, kv_start, q_offset, block_size)
        return *gradients, None, None, None, None, None
