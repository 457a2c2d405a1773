"""Layers for `kernels.kernelize`: only their forward is used, on the attributes of the module that they replace."""

import torch
from torch import nn

from .attention import block_sparse_attention, full_attention_with_block_scores


class HySparseFullAttention(nn.Module):
    """Replaces a module with `scaling`, `block_size`, `topk_blocks`, `forced_local_blocks` and `forced_initial_blocks`."""

    can_torch_compile = False
    has_backward = True

    scaling: float | None
    block_size: int
    topk_blocks: int
    forced_local_blocks: int
    forced_initial_blocks: int

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_start: torch.Tensor | None,
        q_offset: int | None,
        need_selection: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """query `[B, H, n, d]`, key `[B, K, T, d]`, value `[B, K, T, dv]`; `[B, H, n, dv]` and blocks `[B, K, n, topk]`."""
        out, _, idx = full_attention_with_block_scores(
            query,
            key,
            value,
            scale=self.scaling,
            block_size=self.block_size,
            topk=self.topk_blocks,
            kv_start=kv_start,
            q_offset=q_offset,
            need_selection=need_selection,
            forced_local_blocks=self.forced_local_blocks,
            forced_initial_blocks=self.forced_initial_blocks,
        )
        return out, idx


class HySparseSparseAttention(nn.Module):
    """Replaces a module with `scaling` and `block_size`."""

    can_torch_compile = False
    has_backward = True

    scaling: float | None
    block_size: int

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        block_indices: torch.Tensor,
        sinks: torch.Tensor | None,
        kv_start: torch.Tensor | None,
        q_offset: int | None,
    ) -> torch.Tensor:
        """query `[B, H, n, d]`, key `[B, K, T, d]`, value `[B, K, T, dv]`, block_indices `[B, K, n, topk]`, sinks `[H]`."""
        return block_sparse_attention(
            query,
            key,
            value,
            block_indices,
            scale=self.scaling,
            block_size=self.block_size,
            kv_start=kv_start,
            q_offset=q_offset,
            sinks=sinks,
        )
