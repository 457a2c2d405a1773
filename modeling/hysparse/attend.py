"""The attentions of HySparse in PyTorch: over all keys, over selected blocks of them, over a window."""

import torch
from torch.compiler import is_exporting

from ..sink_attention import FEW_QUERIES
from .attention_parts import chunks_of, fused, logits_of, materialised, softmax_over
from .block_major import attend_block_by_block
from .block_selection import Selection, select_blocks
from .row_layout import Rows

SPARSE_ENOUGH = 8  # from this many times the selected keys on, going block by block is quicker than a mask


def attend_all(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: Rows = Rows(),  # noqa: B008  nobody changes a tuple
    *,
    scaling: float,
    selection: Selection | None = None,
    materialise: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """
    Causal attention over all keys, and the blocks of them that `selection` chooses for each query. No gradient flows through
    the choice.

    Args:
        query: `[batch, heads, queries, head_dim]`.
        key: `[batch, key_value_heads, slots, head_dim]`; slots after the last query's are not read.
        value: `[batch, key_value_heads, slots, v_head_dim]`.
        materialise: hand out the attention weights.

    Returns:
        `[batch, heads, queries, v_head_dim]`, zeros where a query sees no key; the blocks as `select_blocks` returns them, or
        None; and the weights `[batch, heads, queries, slots]`, or None.
    """
    num_queries, num_slots = query.shape[2], rows.q_offset + query.shape[2]
    key, value = key[:, :, :num_slots], value[:, :, :num_slots]
    if materialise or is_exporting() or (selection is not None and num_queries <= FEW_QUERIES):
        visible = rows.visible(num_queries, num_slots, query.device)
        logits = logits_of(query, key, scaling)
        output, weights = materialised(logits, value, visible)
        blocks = None
        if selection is not None:
            with torch.no_grad():
                blocks = selection.blocks(logits.masked_fill(~visible[:, :, None], float("-inf")), rows)
        return output, blocks, weights if materialise else None

    if rows.kv_start is None and rows.q_offset == 0:
        output = fused(query, key, value, None, scaling)
    else:
        chunks = []
        for part, part_rows, end in chunks_of(query, rows):
            visible = part_rows.visible(part.stop - part.start, end, query.device)
            chunks.append(fused(query[:, :, part], key[:, :, :end], value[:, :, :end], visible, scaling))
        output = torch.cat(chunks, dim=2)
    return output, None if selection is None else select_blocks(query, key, rows, scaling, selection), None


def attend_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_indices: torch.Tensor,
    rows: Rows = Rows(),  # noqa: B008  nobody changes a tuple
    *,
    scaling: float,
    block_size: int,
    sinks: torch.Tensor | None = None,
    materialise: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Causal attention over the keys of selected blocks (arXiv 2602.03560, section 3.3).

    Args:
        query, key, value: as in `attend_all`.
        block_indices: `[batch, key_value_heads, queries, topk]`, -1 for no block.
        sinks: a logit per head that takes its share of the softmax and gives nothing, `[heads]`.
        materialise: hand out the attention weights.

    Returns:
        `[batch, heads, queries, v_head_dim]`, zeros where no key is selected; and the weights `[batch, heads, queries,
        slots]`, or None.
    """
    num_queries, num_slots = query.shape[2], rows.q_offset + query.shape[2]
    key, value = key[:, :, :num_slots], value[:, :, :num_slots]
    selected = block_indices.shape[-1] * block_size
    if materialise or is_exporting() or (num_queries <= FEW_QUERIES and selected >= num_slots):
        visible = rows.visible(num_queries, num_slots, query.device)
        visible = visible & selected_keys(block_indices, num_slots, block_size, rows)
        output, weights = materialised(logits_of(query, key, scaling), value, visible, sinks)
        return output, weights if materialise else None
    if num_queries <= FEW_QUERIES:
        return _attend_gathered(query, key, value, block_indices, rows, scaling, block_size, sinks), None
    if selected * SPARSE_ENOUGH <= num_slots:
        return attend_block_by_block(query, key, value, block_indices, rows, scaling, block_size, sinks), None

    chunks = []
    for part, part_rows, end in chunks_of(query, rows):
        visible = part_rows.visible(part.stop - part.start, end, query.device)
        visible = visible & selected_keys(block_indices[:, :, part], end, block_size, rows)
        chunks.append(fused(query[:, :, part], key[:, :, :end], value[:, :, :end], visible, scaling, sinks))
    return torch.cat(chunks, dim=2), None


def selected_keys(block_indices: torch.Tensor, num_slots: int, block_size: int, rows: Rows) -> torch.Tensor:
    """`[batch, key_value_heads, queries, topk]` as a mask of slots, `[batch, key_value_heads, queries, slots]`."""
    # Comparing with sizes as tensors, not as numbers, keeps a traced program free to take other sizes. Column 0 takes -1 and,
    # in a chunk that ends before its row does, blocks after its end.
    places = torch.arange(num_slots, device=block_indices.device)
    chosen = block_indices.new_zeros(*block_indices.shape[:-1], -(-num_slots // block_size) + 1, dtype=torch.bool)
    columns = block_indices.long() + 1
    if num_slots > 0:
        columns = columns.masked_fill(columns > _block(places[-1], block_size) + 1, 0)
    chosen = chosen.scatter(-1, columns, True).index_fill(-1, columns.new_zeros(1), False)
    if rows.kv_start is None and not is_exporting():
        return chosen[..., 1:].repeat_interleave(block_size, dim=-1)[..., :num_slots]
    return chosen.gather(
        -1, (_block(places - rows.start, block_size) + 1).clamp(min=0).expand(*chosen.shape[:-1], num_slots)
    )


def _block(places: torch.Tensor, block_size: int) -> torch.Tensor:
    return torch.div(places, block_size, rounding_mode="floor")


def _attend_gathered(query, key, value, block_indices, rows, scaling, block_size, sinks) -> torch.Tensor:
    """For few queries: reads the selected keys only."""
    batch, kv_heads, num_queries, _ = block_indices.shape
    offsets = torch.arange(block_size, device=query.device)
    slots = (block_indices.long()[..., None] * block_size + offsets).flatten(-2) + rows.start
    past = slots <= rows.query_slots(num_queries, query.device)
    there = (block_indices >= 0).repeat_interleave(block_size, dim=-1) & past
    slots = slots.masked_fill(~there, 0)
    place = torch.arange(batch, device=query.device).view(-1, 1, 1, 1)
    groups = torch.arange(kv_heads, device=query.device).view(1, -1, 1, 1)
    key, value = key[place, groups, slots], value[place, groups, slots]  # [batch, kv_heads, queries, selected, width]

    query = query.unflatten(1, (kv_heads, -1)).transpose(2, 3)  # [batch, kv_heads, queries, group, head_dim]
    logits = torch.matmul(query * scaling, key.transpose(-1, -2)).transpose(2, 3)
    weights = softmax_over(logits, there[:, :, None], sinks).to(value.dtype)
    output = torch.matmul(weights.transpose(2, 3), value)
    return output.transpose(2, 3).flatten(1, 2)


def attend_window(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: Rows = Rows(),  # noqa: B008  nobody changes a tuple
    *,
    scaling: float,
    window: int,
    sinks: torch.Tensor | None = None,
    materialise: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Causal attention over the last `window` slots, the query's own among them.

    Args:
        query: as in `attend_all`.
        key, value: from slot `rows.k_offset` on.
        sinks, materialise: as in `attend_blocks`.

    Returns:
        `[batch, heads, queries, v_head_dim]`; and the weights `[batch, heads, queries, slots]`, or None.
    """
    num_queries = query.shape[2]
    if materialise or is_exporting():
        num_keys = rows.q_offset + num_queries - rows.k_offset
        key, value = key[:, :, :num_keys], value[:, :, :num_keys]
        visible = rows.visible(num_queries, num_keys, query.device, window)
        output, weights = materialised(logits_of(query, key, scaling), value, visible, sinks)
        return output, weights if materialise else None

    chunks = []
    size = max(window, 256)
    for first in range(0, max(num_queries, 1), size):
        last = min(first + size, num_queries)
        begin, end = max(rows.q_offset + first - window + 1, rows.k_offset), rows.q_offset + last
        part_rows = rows.after(first)._replace(k_offset=begin)
        visible = part_rows.visible(last - first, end - begin, query.device, window)
        part = slice(begin - rows.k_offset, end - rows.k_offset)
        chunks.append(fused(query[:, :, first:last], key[:, :, part], value[:, :, part], visible, scaling, sinks))
    return torch.cat(chunks, dim=2), None


__all__ = ["attend_all", "attend_blocks", "attend_window"]
