"""
SALE's estimate beside exact scores and other estimates, on planted attention, at equal density.

    python benchmarks/sale_estimation.py            # five seeds, minutes on one core
    python benchmarks/sale_estimation.py --small    # one short seed; writes nothing

Planted are what attention maps are known for: a sink, a local band, channels with large constants, and needles: single keys far
back that one query each has to find. The noise is chosen so that at the published threshold, 0.004, exact scores keep a fifth of all
tiles: with more of it every tile has some pair above the threshold and all estimates agree, with less none has.

Each estimate gives every tile a score. Compared are the tiles of largest score at equal density: how many of the needles' tiles are
among them, how many of the tiles that exact scores would choose, how much of the softmax's mass they hold, and how far the output is
from dense attention's. Mean pooling and antidiagonals (XAttention, arXiv 2503.16428, stride 8) are written from their descriptions.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from _record import record
from rich.console import Console
from rich.progress import track

from mimo_hf.hub import kernels

TAU, DENSITY = 0.004, 0.2
NEEDLES, BOOST = 96, 8.0  # logits: the needles stand out for exact scores
HEAD_DIM, LENGTH, HEADS = 128, 4096, 2
LIMITS = (
    "planted attention, not a language model's: what it shows is which structures an estimate sees",
    "baselines choose by one threshold over all rows of a head, as SALE does, not by their authors' rules",
)
console = Console(stderr=True)


@dataclass(frozen=True)
class Planted:
    """One head: q, k, v `[n, d]`, and the (query, key) pairs of its needles `[needles, 2]`."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    needles: torch.Tensor
    noise: float


def plant(length: int, seed: int) -> Planted:
    """The noise is sought by halving."""
    low, high = 0.3, 3.0
    for _ in range(12):
        middle = (low + high) / 2
        head = with_noise(length, seed, middle)
        kept = kept_at(margins(head, "exact"), math.log(TAU))
        low, high = (middle, high) if density_of(kept) < DENSITY else (low, middle)
    return head


def with_noise(length: int, seed: int, noise: float) -> Planted:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    scale = HEAD_DIM**-0.5
    q, k = (randn(length, HEAD_DIM) * noise**0.5 for _ in range(2))  # logits of standard deviation `noise`
    # A local band: a logit of up to 6 that is gone after some fifty positions.
    angles = torch.arange(length)[:, None] * randn(16) / 40
    waves = torch.cat([angles.cos(), angles.sin()], dim=1) * (6 / scale / 16) ** 0.5
    band = slice(0, 32)
    q[:, band], k[:, band] = waves, waves
    # A sink: what the first keys have in one channel, all queries ask for.
    q[:, 32], k[:, 32] = 1.0, 0.0
    k[:4, 32] = 5 / scale
    # Channels with large constants, as models have them.
    k[:, 33:37] += 20 * randn(4).sign()
    q[:, 33:37] += 3
    # Needles: a direction of their own for each pair. Neither the query nor the key has two.
    first, last = length // 2, 32
    queries = torch.randperm(length - first, generator=generator)[:NEEDLES] + first
    keys = torch.randperm(first - 512 - last, generator=generator)[:NEEDLES] + last
    direction = torch.nn.functional.normalize(randn(NEEDLES, HEAD_DIM - 37), dim=1) * (BOOST / scale) ** 0.5
    q[queries, 37:] += direction
    k[keys, 37:] += direction
    return Planted(q, k, randn(length, HEAD_DIM), torch.stack([queries, keys], dim=1), noise)


# Scores of tiles, `[nQ, nK]`: infinity where always kept, minus infinity above the diagonal.


def _layout(head: Planted):
    sale = kernels.load("sale-attn")
    return sale.Layout(len(head.q), len(head.k), sale.Tiling())


def _tile_map(head: Planted, score_of_rows: Callable[[int, slice], torch.Tensor]) -> torch.Tensor:
    """`score_of_rows(tile, slots)`: a score for each tile of the slots, which lie between the sink and the local area."""
    layout = _layout(head)
    block_k = layout.tiling.block_k
    scores = torch.full((layout.query_tiles, layout.key_tiles), -math.inf)
    for tile in range(layout.query_tiles):
        estimated = layout.estimated(tile)
        scores[tile, : layout.visible(tile)] = math.inf
        if len(estimated):
            slots = slice(estimated.start * block_k, estimated.stop * block_k)
            scores[tile, estimated.start : estimated.stop] = score_of_rows(tile, slots)
    return scores


def margins(head: Planted, quant: str, smooth: bool = True) -> torch.Tensor:
    """The largest relative attention score of each tile, as SALE estimates it, as a logarithm: the tile is kept above log(tau)."""
    sale, layout = kernels.load("sale-attn"), _layout(head)
    scale = HEAD_DIM**-0.5
    k = head.k - head.k.mean(0)
    if quant == "exact":
        left, right, extra = head.q, k, torch.zeros(len(k))
    else:
        codes = [sale.quantize(x[None, None], role, quant, smooth) for x, role in ((head.q, "query"), (head.k, "key"))]
        left, right = (x.codes[0, 0] * x.scales[0, 0, :, None] for x in codes)
        extra = (k if smooth else head.k) @ codes[0].mean[0, 0, 0]
        k = k if smooth else head.k

    def score(tile: int, slots: slice) -> torch.Tensor:
        rows = layout.rows(tile)
        always = torch.cat([torch.arange(slots.start), torch.arange(slots.stop, min(rows.stop, len(k)))])
        exact = (head.q[rows] @ k[always].T).masked_fill(
            always > torch.arange(rows.start, rows.stop)[:, None], -math.inf
        )
        bar = torch.logsumexp(scale * exact, dim=-1, keepdim=True)
        estimate = scale * (left[rows] @ right[slots].T + extra[slots]) - bar
        return estimate.amax(dim=0).unflatten(0, (-1, layout.tiling.block_k)).amax(dim=1)

    return _tile_map(head, score)


def mean_pooled(head: Planted) -> torch.Tensor:
    """Product of a tile's mean query and mean key, as a share of its row of tiles."""
    layout = _layout(head)

    def score(tile: int, slots: slice) -> torch.Tensor:
        pooled = head.k[slots].unflatten(0, (-1, layout.tiling.block_k)).mean(1) @ head.q[layout.rows(tile)].mean(0)
        return (HEAD_DIM**-0.5 * pooled).log_softmax(0)

    return _tile_map(head, score)


def antidiagonal(head: Planted, stride: int = 8) -> torch.Tensor:
    """Softmax of sums along antidiagonals of squares of `stride` pairs, summed over a tile."""
    layout = _layout(head)

    def score(tile: int, slots: slice) -> torch.Tensor:
        q = head.q[layout.rows(tile)].unflatten(0, (-1, stride)).flip(1).flatten(1)
        k = head.k[slots].unflatten(0, (-1, stride)).flatten(1)
        weights = (q @ k.T * HEAD_DIM**-0.5 / stride).softmax(-1)
        return weights.sum(0).unflatten(0, (-1, layout.tiling.block_k // stride)).sum(1).log()

    return _tile_map(head, score)


ESTIMATES: dict[str, Callable[[Planted], torch.Tensor]] = {
    "exact": lambda head: margins(head, "exact"),
    "4 bits, thread": lambda head: margins(head, "thread"),
    "4 bits, token": lambda head: margins(head, "token"),
    "4 bits, block": lambda head: margins(head, "block"),
    "4 bits, thread, not smoothed": lambda head: margins(head, "thread", smooth=False),
    "mean pooling": mean_pooled,
    "antidiagonal": antidiagonal,
}


# What is chosen


def kept_at(scores: torch.Tensor, bar: float) -> torch.Tensor:
    return scores > bar


def density_of(kept: torch.Tensor) -> float:
    """Of the causal tiles."""
    layout = kernels.load("sale-attn").Layout
    queries, keys = kept.shape[0] * 64, kept.shape[1] * 32
    return float(kept.sum()) / layout(queries, keys, kernels.load("sale-attn").Tiling()).causal_tiles()


def kept_at_density(scores: torch.Tensor, causal: int, density: float) -> torch.Tensor:
    """The tiles of largest score, as many as make this density; those that are always kept come first."""
    order = scores.flatten().argsort(descending=True, stable=True)[: round(density * causal)]
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[order] = True
    return kept.view_as(scores) | (scores == math.inf)


def needle_recall(kept: torch.Tensor, head: Planted) -> float:
    tiles = head.needles // torch.tensor([64, 32])
    return float(kept[tiles[:, 0], tiles[:, 1]].float().mean())


def output_error(kept: torch.Tensor, head: Planted) -> tuple[float, float]:
    """Softmax mass that the kept tiles hold, mean over rows; mean L1 error of a row of the output."""
    logits = head.q @ head.k.T * HEAD_DIM**-0.5
    logits = logits.masked_fill(~torch.ones_like(logits, dtype=torch.bool).tril(), -math.inf)
    weights = logits.softmax(-1)
    pairs = kept.repeat_interleave(64, 0)[: len(logits)].repeat_interleave(32, 1)[:, : logits.shape[1]]
    mass = (weights * pairs).sum(-1, keepdim=True)
    sparse = (weights * pairs / mass) @ head.v
    return float(mass.mean()), float((sparse - weights @ head.v).abs().sum(-1).mean())


def needed_density(scores: torch.Tensor, causal: int, head: Planted, recall: float) -> float:
    """The least density at which so many needles are kept."""
    tiles = head.needles // torch.tensor([64, 32])
    of_needles = scores[tiles[:, 0], tiles[:, 1]].sort(descending=True).values
    bar = of_needles[max(0, math.ceil(recall * len(of_needles)) - 1)]
    return float((scores >= bar).sum()) / causal


def measure(length: int, seed: int) -> list[dict]:
    """A row for each estimate, of one head."""
    head = plant(length, seed)
    causal = _layout(head).causal_tiles()
    scores = {name: estimate(head) for name, estimate in ESTIMATES.items()}
    exact = kept_at(scores["exact"], math.log(TAU))
    density = float(exact.sum()) / causal
    half = needed_density(scores["mean pooling"], causal, head, 0.5)
    rows = []
    for name, own in scores.items():
        kept = kept_at_density(own, causal, density)
        optional = exact & (scores["exact"] != math.inf)
        mass, error = output_error(kept, head)
        rows.append(
            {
                "estimate": name,
                "density_at_tau": float(kept_at(own, math.log(TAU)).sum()) / causal
                if "4 bits" in name or name == "exact"
                else None,
                "needles_kept": needle_recall(kept, head),
                "agrees_with_exact": float((kept & optional).sum() / optional.sum()),
                "mass_kept": mass,
                "l1_error": error,
                "needles_kept_where_mean_pooling_keeps_half": needle_recall(kept_at_density(own, causal, half), head),
                "density_for_all_needles": needed_density(own, causal, head, 1.0),
                "density": density,
                "density_where_mean_pooling_keeps_half": half,
                "noise": head.noise,
            }
        )
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Means over heads and seeds, with the least and greatest."""
    table = []
    for name in dict.fromkeys(row["estimate"] for row in rows):
        own = [row for row in rows if row["estimate"] == name]
        line: dict = {"estimate": name}
        for key in own[0]:
            values = [row[key] for row in own]
            if key in ("estimate", "seed", "noise") or None in values:
                continue
            line[key] = round(statistics.fmean(values), 4)
            line[f"{key}_least"], line[f"{key}_most"] = round(min(values), 4), round(max(values), 4)
        table.append(line)
    return table


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--small", action="store_true", help="one short seed; writes nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    length, heads, seeds = (2048, 1, options.seeds[:1]) if options.small else (LENGTH, HEADS, options.seeds)
    rows = []
    for seed in track(seeds, "seeds", console=console):
        for head in range(heads):
            rows += [{"seed": seed, **row} for row in measure(length, 1000 * seed + head)]
    payload = {
        "setting": f"heads of {HEAD_DIM} channels, {length} queries and keys, {heads} heads a seed, {NEEDLES} needles a head",
        "tau": TAU,
        "seeds": seeds,
        "limits": list(LIMITS),
        "table": summary(rows),
        "runs": rows,
    }
    console.print_json(data=payload["table"])
    if not options.small:
        console.print(f"wrote {record('sale_estimation', payload, timed=False).name}")


if __name__ == "__main__":
    main()
