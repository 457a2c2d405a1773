"""Layers for `kernels.kernelize`: only their forward is used, on the state of the module that they replace."""

import torch
from torch import nn

from .attention import sink_swa_attention


class SinkSlidingWindowAttention(nn.Module):
    """Replaces a module whose `sinks` is `[H]` or None, with `sliding_window` and `scaling`."""

    can_torch_compile = False
    has_backward = True

    sinks: torch.Tensor | None
    sliding_window: int | None
    scaling: float | None

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kv_start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """query `[B, H, n, d]`, key `[B, K, T, d]`, value `[B, K, T, dv]`, kv_start `[B]`; `[B, H, n, dv]`."""
        return sink_swa_attention(query, key, value, self.sinks, self.sliding_window, self.scaling, kv_start)
