"""
HySparse's two attentions in PyTorch with the softmax written out: the ground truth of every backend, and what runs on a CPU.

Keys are put in order of content positions first, so that padding on the left is gone; from there on a query at position p
sees the positions 0 ... p, and position c lies in block c // block_size.
"""

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ._shared.reference import attend

CHUNK = 512


def full_attention_with_block_scores_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    block_size: int,
    topk: int,
    kv_start: torch.Tensor | None = None,
    q_offset: int | None = None,
    need_selection: bool = True,
    forced_local_blocks: int = 0,
    forced_initial_blocks: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """
    `full_attention_with_block_scores` in chunks of 512 queries, in float32 or better; the backward pass computes a chunk again.

    Any head dims, block size and floating-point type, on any device. Shapes and arguments: `full_attention_with_block_scores`.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale

    def attend_chunk(q, k, v, position):
        visible = torch.arange(k.shape[2], device=k.device) <= position[:, None, :, None]
        out, lse, logits = attend(q, k, v, visible, None, scale)
        if not need_selection:
            return out, lse
        with torch.no_grad():
            score = block_scores(logits, lse, block_size)
            own_block = position.div(block_size, rounding_mode="floor")
            idx = select_blocks(score, own_block, topk, forced_local_blocks, forced_initial_blocks)
        return out, lse, idx

    k, v, position = _by_content_position(q, k, v, kv_start, q_offset)
    out, lse, *idx = _in_chunks(attend_chunk, q, k, v, position)
    return out, lse, idx[0] if need_selection else None


def block_sparse_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    idx: torch.Tensor,
    *,
    scale: float | None = None,
    block_size: int,
    kv_start: torch.Tensor | None = None,
    q_offset: int | None = None,
    sinks: torch.Tensor | None = None,
    return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """
    `block_sparse_attention` with all pairs of a chunk of 512 queries, in float32 or better: it saves no time.

    Any head dims, block size and floating-point type, on any device. Shapes and arguments: `block_sparse_attention`.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale

    def attend_chunk(q, k, v, position, idx):
        column = torch.arange(k.shape[2], device=k.device)
        blocks = -(-k.shape[2] // block_size)
        entry = torch.where((idx >= 0) & (idx < blocks), idx, blocks).long()
        chosen = torch.zeros((*idx.shape[:3], blocks + 1), dtype=torch.bool, device=k.device).scatter(-1, entry, True)
        visible = chosen[..., column // block_size] & (column <= position[:, None, :, None])
        return attend(q, k, v, visible, sinks, scale)[:2]

    k, v, position = _by_content_position(q, k, v, kv_start, q_offset)
    out, lse = _in_chunks(attend_chunk, q, k, v, position, idx)
    return (out, lse) if return_lse else out


def block_scores(logits: torch.Tensor, lse: torch.Tensor, block_size: int) -> torch.Tensor:
    """
    Logarithm of the largest probability in each block, for any head of the group (arXiv 2602.03560, section 3.2).

    Args:
        logits: `[B, K, G, n, P]`, minus infinity where a query does not see a position.
        lse: `[B, K * G, n]`.

    Returns:
        `[B, K, n, blocks]`.
    """
    score = (logits - lse.view(logits.shape[:-1])[..., None]).amax(dim=2)
    blocks = -(-score.shape[-1] // block_size)
    score = F.pad(score, (0, blocks * block_size - score.shape[-1]), value=float("-inf"))
    return score.unflatten(-1, (blocks, block_size)).amax(dim=-1)


def select_blocks(
    score: torch.Tensor,
    own_block: torch.Tensor,
    topk: int,
    forced_local_blocks: int = 0,
    forced_initial_blocks: int = 0,
) -> torch.Tensor:
    """
    The blocks that each query takes: forced ones, then by score, then by index.

    Args:
        score: `[B, K, n, blocks]`.
        own_block: block that holds the query, `[B, n]`; it sees the blocks 0 ... own_block.

    Returns:
        `[B, K, n, topk]`, int32; -1 where there are no more blocks.
    """
    block, own_block = torch.arange(score.shape[-1], device=score.device), own_block[:, None, :, None]
    forced = (block > own_block - forced_local_blocks) | (block < forced_initial_blocks)
    score = score.masked_fill(forced, float("inf")).masked_fill(block > own_block, float("-inf"))
    score, idx = score.sort(dim=-1, descending=True, stable=True)
    idx = idx.masked_fill(score == float("-inf"), -1)[..., :topk].int()
    return F.pad(idx, (0, topk - idx.shape[-1]), value=-1)


def _by_content_position(q, k, v, kv_start, q_offset):
    """Keys and values `[B, K, P, .]` by content position, and that of each query, `[B, n]`: negative in the padding."""
    batch, queries = q.shape[0], q.shape[2]
    end = k.shape[2] if q_offset is None else q_offset + queries
    k, v = k[:, :, :end], v[:, :, :end]
    position = torch.arange(end - queries, end, device=q.device).expand(batch, queries)
    if kv_start is None:
        return k, v, position
    start = kv_start.to(device=q.device, dtype=torch.int64)[:, None]
    # Behind the content of a row, its last slot stands in: no query of the row is there to see it.
    slot = (start + torch.arange(end, device=q.device)).clamp(max=end - 1)[:, None, :, None]
    k, v = (x.gather(2, slot.expand(-1, x.shape[1], -1, x.shape[3])) for x in (k, v))
    return k, v, position - start


def _in_chunks(attend_chunk, q, k, v, position, *by_query):
    """`attend_chunk` for chunks of queries, with the keys up to the last of them; what it returns is put together."""
    queries, offset = q.shape[2], k.shape[2] - q.shape[2]
    outputs = []
    for begin in range(0, queries, CHUNK):
        end = min(begin + CHUNK, queries)
        part = [q[:, :, begin:end], k[:, :, : offset + end], v[:, :, : offset + end], position[:, begin:end]]
        part += [x[:, :, begin:end] for x in by_query]
        if queries > CHUNK and torch.is_grad_enabled():
            outputs.append(checkpoint(attend_chunk, *part, use_reentrant=False, preserve_rng_state=False))
        else:
            outputs.append(attend_chunk(*part))
    return [torch.cat(parts, dim=2) for parts in zip(*outputs, strict=True)]
