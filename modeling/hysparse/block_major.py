"""Attention over selected blocks, block by block: all queries that chose a block meet it in one product.

Read query by query, selected keys would be copied once for each query. Here the (query, block) pairs are sorted by block and
cut into tiles of queries of one block; each tile is one matrix product, and the partial softmaxes of a query's blocks are
merged by their LSE. Time grows with the number of selected keys, not with the context.
"""

from typing import NamedTuple

import torch

from .row_layout import Rows

TILE = 16  # queries
CHUNK_FLOATS = 1 << 21  # of a chunk of queries, over all heads and blocks


def attend_block_by_block(
    query, key, value, block_indices, rows: Rows, scaling: float, block_size: int, sinks
) -> torch.Tensor:
    """`attend_blocks`, whose arguments these are: `[batch, heads, queries, v_head_dim]`."""
    heads, num_queries = query.shape[1:3]
    per_pair = heads * (query.shape[-1] + block_size + value.shape[-1])
    size = max(TILE, CHUNK_FLOATS // (query.shape[0] * block_indices.shape[-1] * per_pair))
    chunks = []
    for first in range(0, num_queries, size):
        part = slice(first, first + size)
        arguments = (query[:, :, part], key, value, block_indices[:, :, part])
        chunks.append(_attend_chunk(*arguments, rows.after(first), scaling, block_size, sinks))
    return torch.cat(chunks, dim=2)


def _attend_chunk(query, key, value, block_indices, place: Rows, scaling, block_size, sinks) -> torch.Tensor:
    batch, kv_heads, num_queries, topk = block_indices.shape
    query = query.unflatten(1, (kv_heads, -1)).flatten(0, 1).transpose(1, 2)  # [rows, queries, group, head_dim]
    key, value = key.flatten(0, 1), value.flatten(0, 1)  # a row is one key-value head of one sequence
    rows, _, group, _ = query.shape
    num_slots = key.shape[1]

    tiles = _tiles(block_indices.flatten(0, 1), -(-num_slots // block_size))
    num_tiles = tiles.row.shape[0]
    slots = tiles.block[:, None] * block_size + torch.arange(block_size, device=query.device)
    if place.kv_start is not None:
        slots = slots + place.kv_start.repeat_interleave(kv_heads)[tiles.row][:, None]
    query_slots = tiles.query % num_queries + place.q_offset
    visible = slots[:, None] <= query_slots[..., None]  # [tiles, TILE, block_size]
    slots = slots.clamp(max=num_slots - 1)
    keys, values = key[tiles.row[:, None], slots], value[tiles.row[:, None], slots]

    queries = query.flatten(0, 1)[tiles.query.flatten()].view(num_tiles, TILE * group, -1)
    logits = torch.bmm(queries * scaling, keys.transpose(1, 2)).view(num_tiles, TILE, group, block_size)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # A place that no query took may see nothing, and a softmax over nothing has no gradient.
    blind = ~visible.any(dim=-1)[:, :, None]
    logits = logits.masked_fill(~visible[:, :, None], float("-inf")).masked_fill(blind[..., None], 0.0)
    lse = logits.logsumexp(dim=-1)
    weights = (logits - lse[..., None]).exp().to(value.dtype)
    lse = lse.masked_fill(blind, float("-inf"))
    partial = torch.bmm(weights.view(num_tiles, TILE * group, block_size), values)

    # Back to the pairs; those without a block take the place after the last tile.
    partial = torch.nn.functional.pad(partial.view(num_tiles * TILE, group, -1), (0, 0, 0, 0, 0, 1))[tiles.place]
    lse = torch.nn.functional.pad(lse.view(num_tiles * TILE, group), (0, 0, 0, 1), value=float("-inf"))[tiles.place]
    shares = _shares(lse.view(rows, num_queries, topk, group), sinks, batch)
    output = (shares[..., None].to(value.dtype) * partial.view(rows, num_queries, topk, group, -1)).sum(dim=2)
    return output.transpose(1, 2).unflatten(0, (batch, kv_heads)).flatten(1, 2)


def _shares(lse: torch.Tensor, sinks: torch.Tensor | None, batch: int) -> torch.Tensor:
    """What each block of a query weighs, `[rows, queries, topk, group]`; zeros where there is none."""
    absent = lse == float("-inf")
    if sinks is None:
        none = absent.all(dim=2, keepdim=True)
        shares = lse.masked_fill(none, 0.0).softmax(dim=2)
    else:
        column = sinks.to(lse.dtype).view(-1, lse.shape[-1]).repeat(batch, 1)[:, None, None]
        column = column.expand(-1, lse.shape[1], 1, -1)
        shares = torch.cat([lse, column], dim=2).softmax(dim=2)[:, :, :-1]
    return shares.masked_fill(absent, 0.0)


class _Tiles(NamedTuple):
    """`row`, `block`: of each tile, `[tiles]`. `query`: in its places, `[tiles, TILE]`, counted over all rows. `place`: of
    each pair (row, query, rank), flat; `tiles * TILE` where there is no block."""

    row: torch.Tensor
    block: torch.Tensor
    query: torch.Tensor
    place: torch.Tensor


def _tiles(block_indices: torch.Tensor, num_blocks: int) -> _Tiles:
    """Sorts the pairs of `[rows, queries, topk]` by row and block, -1 last, and cuts them into tiles."""
    rows, _, topk = block_indices.shape
    device = block_indices.device
    pairs = block_indices.long().masked_fill(block_indices < 0, num_blocks)
    pairs = (pairs + torch.arange(rows, device=device).view(-1, 1, 1) * (num_blocks + 1)).flatten()
    order = pairs.argsort(stable=True)
    counts = torch.bincount(pairs, minlength=rows * (num_blocks + 1))
    num_tiles = (counts + TILE - 1) // TILE
    num_tiles.view(rows, -1)[:, num_blocks] = 0

    first_pair, first_tile = counts.cumsum(0) - counts, num_tiles.cumsum(0) - num_tiles
    sorted_pairs = pairs[order]
    rank = torch.arange(len(pairs), device=device) - first_pair[sorted_pairs]
    total = int(num_tiles.sum())
    place = (first_tile[sorted_pairs] * TILE + rank).masked_fill(
        sorted_pairs % (num_blocks + 1) == num_blocks, total * TILE
    )
    place = torch.empty_like(place).index_copy_(0, order, place)

    query = place.new_zeros(total * TILE + 1)
    query[place] = torch.arange(len(pairs), device=device) // topk
    of_tile = torch.repeat_interleave(torch.arange(len(counts), device=device), num_tiles)
    return _Tiles(of_tile // (num_blocks + 1), of_tile % (num_blocks + 1), query[:-1].view(total, TILE), place)


__all__ = ["attend_block_by_block"]
