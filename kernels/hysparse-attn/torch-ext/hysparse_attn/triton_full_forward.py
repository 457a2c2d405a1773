"""The full attention's forward pass, in chunks of queries, each of which names its blocks before the next begins."""

import math

import torch
import triton

from ._shared.tiles import is_hopper, number_of_splits
from ._shared.triton_dense_forward import dense_forward
from ._shared.triton_launch import empty_outputs, merge_splits
from .tiles import full_forward_tiles
from .triton_selection import Selection, select

# Queries of the whole batch whose maxima are held at once: 4 bytes for each of their heads and blocks.
CHUNK_QUERIES = 4096


def full_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    kv_start: torch.Tensor | None,
    q_offset: int,
    selection: tuple[int, ...] | None,
    splits: int | None = None,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """
    Args:
        q, k, v, kv_start, q_offset: as in `full_attention_with_block_scores`.
        selection: the fields of `Selection`; None: no blocks are named.
        splits: of the keys, where all queries are one chunk; None: as `tiles.py` says.
        chunk: queries of each row whose maxima are held at once; None: 4096 in all rows of the batch together.

    Returns:
        The output `[B, H, n, dv]`, whose memory is laid out as `[B, n, H, dv]`, the base-2 logarithm of each row's sum of
        exponentials `[B, H, n]`, and the blocks `[B, K, n, topk]`, or None.
    """
    batch, heads, queries = q.shape[:3]
    kv_heads, group = k.shape[1], heads // k.shape[1]
    chosen = None if selection is None else Selection(*selection)
    chunk = queries if chosen is None else min(queries, chunk or max(1, CHUNK_QUERIES // batch))
    tiles = full_forward_tiles(q.dtype, q.shape[-1], chunk * group, is_hopper(q.device))
    if chosen is not None:
        tiles = tiles.within(chosen.block_size)
    programs = triton.cdiv(chunk * group, tiles.rows) * batch * kv_heads
    if chunk < queries:
        splits = 1
    splits = splits or number_of_splits(programs, (q_offset + queries) // (4 * tiles.keys), q.device)

    block_size, topk = (tiles.keys, 0) if chosen is None else (chosen.block_size, chosen.topk)
    held_blocks = 0 if chosen is None else triton.cdiv(q_offset + queries, block_size)
    maxima = torch.empty(batch * kv_heads * held_blocks * chunk * group, device=q.device, dtype=torch.float32)
    idx = torch.empty((batch, kv_heads, queries, topk), device=q.device, dtype=torch.int32)
    out, lse = empty_outputs(q, v, splits)
    for begin in range(0, queries, chunk):
        end, offset = min(begin + chunk, queries), q_offset + begin
        blocks = triton.cdiv(q_offset + end, block_size)
        shape = (batch, kv_heads, blocks, end - begin, group)
        of_chunk = None if chosen is None else maxima[: math.prod(shape)].view(shape)
        part = q[:, :, begin:end], k, v, out[:, :, :, begin:end], lse[..., begin:end]
        dense_forward(*part, tiles, scale, kv_start, offset, maxima=of_chunk, block_size=block_size)
        if splits > 1:
            out, lse = merge_splits(out, lse, q.dtype)
        if chosen is not None:
            select(of_chunk, lse[0, ..., begin:end], kv_start, offset, chosen, idx[:, :, begin:end])
    return out[0], lse[0], None if chosen is None else idx
