"""
SALE in PyTorch, the ground truth of every backend, and what runs on a CPU.

The first pass holds the scores of one tile of queries, for the heads of a group, and some keys at a time; the second those of one tile of
queries, one head and its kept tiles: never those of all pairs. Its cost grows with the number of kept tiles.
"""

from collections.abc import Iterator

import torch

from .quantize import quantize
from .tile_bits import pack_tiles, unpack_tiles
from .tiling import Layout, Tiling

DENSE_BELOW = 1e-5  # a threshold below it keeps all
CHUNK = 4096  # keys whose scores are held at once


def select_blocks_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    thresholds: torch.Tensor,
    *,
    scale: float,
    quant: str,
    smooth: bool,
    share_group: bool,
    tiling: Tiling,
) -> torch.Tensor:
    """`select_blocks`; `quant="exact"` estimates nothing and computes all scores."""
    layout = Layout(q.shape[2], k.shape[2], tiling)
    batch, heads, kv_heads = q.shape[0], q.shape[1], k.shape[1]
    group = heads // kv_heads
    keys = k.float() - k.float().mean(dim=2, keepdim=True) if smooth else k.float()
    estimator = None if quant == "exact" else _Estimator(q, k, keys, quant, smooth, tiling)
    kept = torch.zeros(batch, heads, layout.query_tiles, -(-layout.key_tiles // 8), dtype=torch.uint8, device=q.device)
    for row in range(batch):
        for kv_head in range(kv_heads):
            own = slice(kv_head * group, (kv_head + 1) * group)
            tau = thresholds[own].to(q.device)
            if estimator is not None:
                estimator.begin(row, own, kv_head)
            for tile in range(layout.query_tiles):
                rows, estimated = layout.rows(tile), layout.estimated(tile)
                chosen = torch.ones(group, layout.visible(tile), dtype=torch.bool, device=q.device)
                if len(estimated) and not (tau < DENSE_BELOW).all():
                    queries = q[row, own, rows].float()
                    bar = _bar(queries, keys[row, kv_head], layout, tile, tau, scale)
                    best = []
                    for tiles in torch.arange(estimated.start, estimated.stop).split(CHUNK // tiling.block_k or 1):
                        span = slice(int(tiles[0]) * tiling.block_k, (int(tiles[-1]) + 1) * tiling.block_k)
                        if estimator is None:
                            scores = queries @ keys[row, kv_head, span].T
                        else:
                            scores = estimator.scores(rows, span)
                        best.append(scores.unflatten(-1, (len(tiles), tiling.block_k)).amax(dim=-1))
                    # What is not known to be below the bar stays: a NaN shows in the output, as it does in dense attention.
                    found = ~(torch.cat(best, dim=-1) <= bar).all(dim=1)
                    chosen[:, estimated.start : estimated.stop] = found | (tau < DENSE_BELOW)[:, None]
                    if share_group:
                        chosen = chosen.any(dim=0, keepdim=True).expand(group, -1)
                bits = pack_tiles(chosen)
                kept[row, own, tile, : bits.shape[-1]] = bits
    return kept


def _bar(queries, keys, layout: Layout, tile: int, tau: torch.Tensor, scale: float) -> torch.Tensor:
    """
    The score that each row has to pass, `[G, rows, 1]`: of relative weight tau against the sum over the tiles that are always kept.

    Args:
        queries: `[G, rows, d]`.
        keys: smoothed, of all slots, `[T, d]`.
    """
    slots = torch.arange(layout.visible(tile) * layout.tiling.block_k, device=keys.device)
    begin = layout.local_begin(tile) * layout.tiling.block_k
    slots = slots[((slots < layout.tiling.sink_tokens) | (slots >= begin)) & (slots < layout.keys)]
    rows = layout.rows(tile)
    at = layout.offset + torch.arange(rows.start, rows.stop, device=keys.device)
    scores = (queries @ keys[slots].T).masked_fill(slots > at[:, None], float("-inf"))
    top = scores.amax(dim=-1, keepdim=True)
    total = (scale * (scores - top)).exp().sum(dim=-1, keepdim=True)
    return top + (tau[:, None, None] * total).log() / scale


class _Estimator:
    """Scores from codes of four bits: products of integers, which float32 holds exactly, times two scales, plus the queries' mean."""

    def __init__(self, q, k, keys, quant: str, smooth: bool, tiling: Tiling):
        self.q, self.k = (quantize(x, role, quant, smooth, tiling) for x, role in ((q, "query"), (k, "key")))
        self.keys = keys

    def begin(self, row: int, heads: slice, kv_head: int) -> None:
        """From here on it is about these heads of a row of the batch."""
        self.q_codes, self.q_scales = self.q.codes[row, heads], self.q.scales[row, heads, :, None]
        self.k_codes, self.k_scales = self.k.codes[row, kv_head].float(), self.k.scales[row, kv_head]
        self.of_mean = self.q.mean[row, heads] @ self.keys[row, kv_head].T

    def scores(self, rows: slice, span: slice) -> torch.Tensor:
        """`[G, rows, keys of the span]`"""
        products = self.q_codes[:, rows].float() @ self.k_codes[span].T
        return products.mul_(self.q_scales[:, rows]).mul_(self.k_scales[span]).add_(self.of_mean[..., span])


def attend_blocks_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kept: torch.Tensor,
    *,
    scale: float,
    compute: str,
    tiling: Tiling,
) -> torch.Tensor:
    """`attend_blocks`, tile by tile, in float32."""
    layout = Layout(q.shape[2], k.shape[2], tiling)
    batch, heads, kv_heads = q.shape[0], q.shape[1], k.shape[1]
    out = q.new_empty(batch, heads, layout.queries, v.shape[-1])
    for row in range(batch):
        for kv_head in range(kv_heads):
            keys, values = k[row, kv_head].float(), _tiles(v[row, kv_head], layout)
            if compute == "int8":
                keys = _through_int8(_tiles(keys - keys.mean(dim=0), layout), (1, 2))
            else:
                keys = _tiles(keys, layout)
            for head in range(kv_head * (heads // kv_heads), (kv_head + 1) * (heads // kv_heads)):
                for tile, tiles in _lists(kept[row, head], layout):
                    rows = layout.rows(tile)
                    queries = q[row, head, rows].float()
                    if compute == "int8":
                        queries = _through_int8(queries, (0, 1))
                    logits = queries @ keys[tiles].flatten(0, 1).T
                    _hide_what_comes_later(logits, tiles, layout, rows)
                    weights = logits.mul_(scale).softmax(dim=-1)
                    out[row, head, rows] = (weights @ values[tiles].flatten(0, 1)).to(q.dtype)
    return out


def _tiles(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """`[T, d]` as `[nK, block_k, d]`, filled up with zeros."""
    padded = torch.nn.functional.pad(x.float(), (0, 0, 0, -len(x) % layout.tiling.block_k))
    return padded.unflatten(0, (-1, layout.tiling.block_k))


def _through_int8(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """x as codes of eight bits say it, with one scale over `dims`."""
    scale = (x.abs().amax(dim=dims, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (x / scale).round() * scale


def _lists(kept: torch.Tensor, layout: Layout) -> Iterator[tuple[int, torch.Tensor]]:
    for tile, row in enumerate(unpack_tiles(kept, layout.key_tiles)):
        yield tile, row[: layout.visible(tile)].nonzero()[:, 0]


def _hide_what_comes_later(logits: torch.Tensor, tiles: torch.Tensor, layout: Layout, rows: slice) -> None:
    """In place, from the first tile on that reaches beyond the first query."""
    block_k, first = layout.tiling.block_k, layout.offset + rows.start
    clear = int(((tiles + 1) * block_k <= first + 1).sum())
    slots = (tiles[clear:, None] * block_k + torch.arange(block_k, device=tiles.device)).flatten()
    at = layout.offset + torch.arange(rows.start, rows.stop, device=tiles.device)
    logits[:, clear * block_k :].masked_fill_(slots > at[:, None], float("-inf"))
