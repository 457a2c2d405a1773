"""What the attentions of HySparse are made of: chunks of queries, logits, a softmax over visible keys.

*Materialised* attention holds all logits of all queries at once, for few queries, and where weights are wanted. Otherwise
queries go chunk by chunk through PyTorch's fused attention: memory grows with the context, not with its square. An exported
program is materialised as well: the number of chunks would fix its length.
"""

from collections.abc import Iterator

import torch

from ..sink_attention import FEW_QUERIES, sink_attention_forward
from .row_layout import Rows

CHUNK_LOGITS = 1 << 22  # of a chunk of queries, over all heads: 16 MB, which caches can hold


def chunks_of(query: torch.Tensor, rows: Rows) -> Iterator[tuple[slice, Rows, int]]:
    """Which queries a chunk has, where their rows stand, and the end of the slots that they see."""
    batch, heads, num_queries, _ = query.shape
    size = max(FEW_QUERIES + 1, CHUNK_LOGITS // max(batch * heads * (rows.q_offset + num_queries), 1))
    for first in range(0, max(num_queries, 1), size):
        last = min(first + size, num_queries)
        yield slice(first, last), rows.after(first), rows.q_offset + last


def logits_of(query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    """`[batch, key_value_heads, group, queries, keys]`, in float32 at least: close scores must not change their order."""
    precision = torch.promote_types(query.dtype, torch.float32)
    kv_heads, num_queries = key.shape[1], query.shape[2]
    stacked = query.unflatten(1, (kv_heads, -1)).flatten(2, 3).to(precision)
    # Scaled after the product, as transformers' eager attention does it.
    logits = torch.matmul(stacked, key.to(precision).transpose(-1, -2)).mul_(scaling)
    return logits.unflatten(2, (-1, num_queries))


def materialised(logits, value, visible, sinks=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Output `[batch, heads, queries, v_head_dim]` and weights `[batch, heads, queries, keys]`."""
    kv_heads, num_queries = value.shape[1], logits.shape[3]
    weights = softmax_over(logits, visible[:, :, None], sinks).to(value.dtype).flatten(1, 2)
    # The output is made of what is handed out, so that a gradient by the weights can be had.
    output = torch.matmul(weights.unflatten(1, (kv_heads, -1)).flatten(2, 3), value)
    return output.unflatten(2, (-1, num_queries)).flatten(1, 2), weights


def softmax_over(logits: torch.Tensor, visible: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Over the last dimension of `[batch, key_value_heads, group, queries, keys]`; zeros where nothing is visible."""
    logits = logits.masked_fill(~visible, float("-inf"))
    precision = torch.promote_types(logits.dtype, torch.float32)
    if sinks is None:
        weights = logits.softmax(dim=-1, dtype=precision)
    else:
        column = sinks.to(logits.dtype).view(1, *logits.shape[1:3], 1, 1).expand(*logits.shape[:-1], 1)
        weights = torch.cat([logits, column], dim=-1).softmax(dim=-1, dtype=precision)[..., :-1]
    return weights.masked_fill(~visible, 0.0)


def fused(query, key, value, visible, scaling, sinks=None) -> torch.Tensor:
    """PyTorch's fused attention; `visible` is `[batch or 1, 1 or key_value_heads, queries, keys]`, None: causal."""
    groups = query.shape[1] // key.shape[1]
    blind = None
    if visible is not None and sinks is None:
        blind = ~visible.any(dim=-1, keepdim=True)
        visible = visible | blind  # a softmax over nothing is NaN
    if visible is not None and visible.shape[1] > 1:
        visible, blind = (mask if mask is None else mask.repeat_interleave(groups, dim=1) for mask in (visible, blind))
    if query.shape[2] > FEW_QUERIES or (visible is not None and visible.shape[1] > 1):
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output, _ = sink_attention_forward(None, query, key, value, visible, scaling=scaling, s_aux=sinks)
    output = output.transpose(1, 2)
    return output if blind is None else output.masked_fill(blind, 0.0)
