"""The Triton kernels as one differentiable operation."""

import torch
import triton
from torch.autograd.function import once_differentiable

from ._shared.tiles import Tiles, is_hopper, number_of_splits, query_gradient_tiles
from ._shared.triton_dense_backward import dense_backward
from ._shared.triton_dense_forward import dense_forward
from ._shared.triton_launch import INTERPRETED, empty_outputs, merge_splits, with_channels_side_by_side
from ._shared.triton_row_sums import delta_of, sink_gradient
from .tiles import forward_tiles, key_gradient_tiles

__all__ = ["INTERPRETED", "SinkSWAFunction"]


class SinkSWAFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, sinks, window, scaling, kv_start):
        query, key, value = map(with_channels_side_by_side, (query, key, value))
        out, lse = forward(query, key, value, sinks, window, scaling, kv_start)
        ctx.save_for_backward(query, key, value, sinks, kv_start, out, lse)
        ctx.window, ctx.scaling = window, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, sinks, kv_start, out, lse = ctx.saved_tensors
        grad = with_channels_side_by_side(grad)
        delta = delta_of(out, lse, grad)
        geometry = query.dtype, query.shape[-1], is_hopper(query.device)
        tiles = query_gradient_tiles(*geometry), key_gradient_tiles(*geometry)
        place = ctx.scaling, kv_start, key.shape[2] - query.shape[2], ctx.window
        gradients = dense_backward(grad, query, key, value, lse, delta, *tiles, *place)
        return *gradients, sink_gradient(sinks, lse, delta), None, None, None


def forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None,
    window: int | None,
    scaling: float,
    kv_start: torch.Tensor | None,
    tiles: Tiles | None = None,
    splits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Args:
        query, key, value: as in `sink_swa_attention`; the last dimension is contiguous.
        tiles, splits: None: as `tiles.py` says. Splits of the keys are put together afterwards.

    Returns:
        The output `[B, H, n, dv]`, whose memory is laid out as `[B, n, H, dv]`, and the base-2 logarithm of each row's sum of
        exponentials, the sink's among them, `[B, H, n]`.
    """
    batch, heads, queries = query.shape[:3]
    kv_heads, slots = key.shape[1:3]
    rows = queries * (heads // kv_heads)
    tiles = tiles or forward_tiles(query.dtype, rows)
    programs = triton.cdiv(rows, tiles.rows) * batch * kv_heads
    most = (slots if window is None else window) // (4 * tiles.keys)
    out, lse = empty_outputs(query, value, splits or number_of_splits(programs, most, query.device))
    dense_forward(query, key, value, out, lse, tiles, scaling, kv_start, slots - queries, sinks, window)
    if len(out) > 1:
        out, lse = merge_splits(out, lse, query.dtype)
    return out[0], lse[0]
