"""The Triton kernels as one differentiable operation."""

import torch
from torch.autograd.function import once_differentiable

from .triton_backward import backward
from .triton_forward import INTERPRETED, forward

__all__ = ["INTERPRETED", "SinkSWAFunction"]


class SinkSWAFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, sinks, window, scaling, kv_start):
        query, key, value = (
            tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key, value)
        )
        out, lse = forward(query, key, value, sinks, window, scaling, kv_start)
        ctx.save_for_backward(query, key, value, sinks, kv_start, out, lse)
        ctx.window, ctx.scaling = window, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, sinks, kv_start, out, lse = ctx.saved_tensors
        gradients = backward(grad, query, key, value, sinks, out, lse, ctx.window, ctx.scaling, kv_start)
        return *gradients, None, None, None
