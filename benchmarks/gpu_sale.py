"""
SALE's two passes against PyTorch's fused attention and FlexAttention, on a GPU, at Llama-3.1-8B's geometry.

    python benchmarks/gpu_sale.py
    python benchmarks/gpu_sale.py --device cpu --quick     # only to see that it runs; times nothing, writes nothing

32 heads on 8 key-value heads, 128 channels, bfloat16, one prompt. The first pass (codes, bars, choice) is timed as a whole; the second on
maps with tiles drawn at random at each density, beside those that are always kept; both together at each density over fused attention's
time is the speed-up, and the density stands beside it. FlexAttention gets the same map, as a block mask. `shared` is the variant, not the
paper's, in which the heads of a group keep what any of them does: the choice's time, and the density that comes of it on planted keys.

The floor: the first pass multiplies queries and keys only, a half of attention's work, and 8-bit products run at twice the rate of
bfloat16: about a quarter of the time of an attention that runs at the device's peak. The second's is the density.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from _record import force_option, record
from rich.console import Console
from sale_estimation import HEAD_DIM, with_noise
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils.benchmark import Timer

from mimo_hf.hub import kernels

HEADS, KV_HEADS, NOISE = 32, 8, 1.0
DENSITIES = (0.05, 0.1, 0.2, 0.5, 1.0)
GOAL, ESTIMATE_GOAL = 3.36, 0.11  # the paper's, on an RTX 4090 with 4-bit products, beyond 64K tokens
console = Console()


def make_inputs(tokens: int, heads: tuple[int, int], device: str, seed: int) -> list[torch.Tensor]:
    """Query, key and value of `sale_estimation.py`: a sink, a local band, channels with large constants, needles, noise. Heads of a group differ a little."""
    generator = torch.Generator().manual_seed(seed)
    group = heads[0] // heads[1]
    planted = [with_noise(tokens, seed * 1000 + head, NOISE) for head in range(heads[1])]
    q = torch.stack(
        [head.q + 0.1 * torch.randn(head.q.shape, generator=generator) for head in planted for _ in range(group)]
    )
    k, v = (torch.stack([getattr(head, name) for head in planted]) for name in ("k", "v"))
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return [x[None].to(device=device, dtype=dtype) for x in (q, k, v)]


def random_map(tokens: int, heads: int, density: float, device: str, seed: int = 0) -> torch.Tensor:
    """Bits of what is always kept and of other tiles at random, the same share of them in each row of tiles."""
    sale = kernels.load("sale-attn")
    layout = sale.Layout(tokens, tokens, sale.Tiling())
    least = layout.causal_tiles() - layout.estimated_tiles()
    share = min(1.0, max(0.0, (density * layout.causal_tiles() - least) / max(1, layout.estimated_tiles())))
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for tile in range(layout.query_tiles):
        row = torch.zeros(heads, layout.key_tiles, dtype=torch.bool)
        estimated = layout.estimated(tile)
        row[:, : layout.visible(tile)] = True
        row[:, estimated.start : estimated.stop] = torch.rand(heads, len(estimated), generator=generator) < share
        parts.append(sale.pack_tiles(row))
    return torch.stack(parts, dim=1)[None].to(device)


def density_of(kept: torch.Tensor, tokens: int) -> float:
    sale = kernels.load("sale-attn")
    layout = sale.Layout(tokens, tokens, sale.Tiling())
    tiles = sum(float(sale.unpack_tiles(part, layout.key_tiles).sum()) for part in kept.flatten(0, 1))
    return tiles / (kept.shape[0] * kept.shape[1] * layout.causal_tiles())


def flex(kept: torch.Tensor, tokens: int, device: str) -> Callable:
    """FlexAttention over the same tiles. The map stands in the block mask and in its function: without a compiler only the latter counts."""
    sale = kernels.load("sale-attn")
    tiling = sale.Tiling()
    layout = sale.Layout(tokens, tokens, tiling)
    tiles = sale.unpack_tiles(kept, layout.key_tiles)

    def visible(b, h, i, j):
        return tiles[b, h, i // tiling.block_q, j // tiling.block_k] & (j <= i)

    counts = tiles.sum(-1, dtype=torch.int32)
    order = tiles.int().argsort(dim=-1, descending=True, stable=True).int()
    mask = BlockMask.from_kv_blocks(
        counts, order, BLOCK_SIZE=(tiling.block_q, tiling.block_k), mask_mod=visible, seq_lengths=(tokens, tokens)
    )
    fused = torch.compile(flex_attention, dynamic=False) if device == "cuda" else flex_attention
    return lambda q, k, v: fused(q, k, v, block_mask=mask, enable_gqa=True)


def timed(call: Callable, device: str, seconds: float) -> float | None:
    """Median in milliseconds; None on a CPU, where nothing is timed."""
    call()
    if device != "cuda":
        return None
    return 1e3 * Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=seconds).median


def measure(tokens: int, heads: tuple[int, int], device: str, seconds: float, seed: int) -> dict:
    sale = kernels.load("sale-attn")
    inputs = make_inputs(tokens, heads, device, seed)
    q, k, v = inputs
    fused = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    expected = fused(q, k, v).float()
    found = sale.attend_blocks(q, k, v, sale.select_blocks(q, k, 0.0)).float()
    row: dict = {
        "tokens": tokens,
        "error_at_density_1": float((found - expected).norm() / expected.norm()),
        "fused_ms": timed(lambda: fused(q, k, v), device, seconds),
        "select_ms": timed(lambda: sale.select_blocks(q, k), device, seconds),
        "select_shared_ms": timed(lambda: sale.select_blocks(q, k, share_group=True), device, seconds),
        "planted_density": density_of(sale.select_blocks(q, k), tokens),
        "planted_density_shared": density_of(sale.select_blocks(q, k, share_group=True), tokens),
        "densities": [],
    }
    del found, expected
    for density in DENSITIES:
        kept = random_map(tokens, heads[0], density, device)
        line: dict = {"density": density_of(kept, tokens)}
        line["attend_ms"] = timed(lambda kept=kept: sale.attend_blocks(q, k, v, kept), device, seconds)
        try:
            attend = flex(kept, tokens, device)
            line["flex_ms"] = timed(lambda attend=attend: attend(q, k, v), device, seconds)
        except RuntimeError as error:  # out of memory, or nothing that FlexAttention's compiler can make
            line["flex_error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
        if device == "cuda":
            line["faster_than_fused"] = row["fused_ms"] / (row["select_ms"] + line["attend_ms"])
            line["attend_over_fused"] = line["attend_ms"] / row["fused_ms"]
            torch.cuda.empty_cache()
        row["densities"].append(line)
    if device == "cuda":
        row["select_over_fused"] = row["select_ms"] / row["fused_ms"]
    return row


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 16384, 32768, 65536, 131072])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--seed", type=int, default=0)
    force_option(parser)
    parser.add_argument("--quick", action="store_true", help="1,536 tokens, four heads")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is present; --device cpu --quick shows that the script runs, and times nothing")
    if args.device == "cpu" and not args.quick:
        parser.error("--device cpu goes with --quick: it times nothing")
    lengths, heads = ([1536], (4, 2)) if args.quick else (args.tokens, (HEADS, KV_HEADS))
    rows = []
    with torch.no_grad():
        for tokens in lengths:
            rows.append(measure(tokens, heads, args.device, args.seconds, args.seed))
            console.print(rows[-1])
    if args.device == "cuda":
        payload = {
            "heads": list(heads),
            "head_dim": HEAD_DIM,
            "goal": f"{GOAL} times fused attention at 64k tokens, the first pass at most {ESTIMATE_GOAL} of its time",
            "rows": rows,
        }
        console.print(f"wrote {record('gpu_sale', payload, args.seed, timed=True, force=args.force).name}")


if __name__ == "__main__":
    main()
