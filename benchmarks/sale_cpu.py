"""
SALE's reference on a CPU: what its second pass costs by density, and the memory of a long prefill.

    python benchmarks/sale_cpu.py            # some minutes on a machine that does nothing else
    python benchmarks/sale_cpu.py --quick    # 2k tokens; writes nothing

Time: attention over kept tiles at 16k tokens, the tiles drawn at random at each density beside those that are always kept, in turn
with the same code over all tiles, and with PyTorch's fused attention. The goal: at density 0.1 at most 0.35 of the time over all
tiles. The first pass, estimate and choice, is timed beside them: on a CPU it costs more than it saves.

Memory: the resident set of a process that prefills 32k tokens by both passes, over what it held before, beside the bytes of a map of all
pairs, as a padded batch gets in dense attention. The goal: at most 0.1 of it.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from functools import partial

import torch
from _record import force_option, record
from _timing import in_turn, ratio_of, steady_ratio
from rich.console import Console

from mimo_hf.hub import kernels

GOAL, MEMORY_GOAL = 0.35, 0.1
DENSITIES = (0.05, 0.1, 0.2, 0.5)
HEADS, KV_HEADS, HEAD_DIM = 2, 1, 128
console = Console(stderr=True)


def inputs(length: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, HEADS, length, HEAD_DIM), (1, KV_HEADS, length, HEAD_DIM), (1, KV_HEADS, length, HEAD_DIM)]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def tiles_at(length: int, density: float) -> torch.Tensor:
    """Bits of what is always kept and of others at random, so many of all causal tiles in each row of tiles as the density says."""
    sale = kernels.load("sale-attn")
    layout = sale.Layout(length, length, sale.Tiling())
    generator = torch.Generator().manual_seed(1)
    kept = torch.zeros(1, HEADS, layout.query_tiles, layout.key_tiles, dtype=torch.bool)
    for tile in range(layout.query_tiles):
        visible, estimated = layout.visible(tile), layout.estimated(tile)
        kept[..., tile, :visible] = True
        wanted = max(0, round(density * visible) - (visible - len(estimated)))
        for head in range(HEADS):
            order = torch.randperm(len(estimated), generator=generator) + estimated.start
            kept[0, head, tile, order[wanted:]] = False
    return sale.pack_tiles(kept)


@torch.no_grad()
def times(length: int, repeats: int) -> dict:
    sale = kernels.load("sale-attn")
    q, k, v = inputs(length)
    layout = sale.Layout(length, length, sale.Tiling())
    bits = {density: tiles_at(length, density) for density in (*DENSITIES, 1.0)}
    ways = {f"{density:g}": partial(sale.attend_blocks, q, k, v, bits[density]) for density in bits}
    ways["fused"] = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True)
    ways["estimate and choice"] = partial(sale.select_blocks, q, k, 0.004)
    pair = {name: ways[name] for name in ("0.1", "1")}
    figures, _ = steady_ratio(pair, "0.1", "1", repeats)
    seconds = in_turn(ways, max(2, repeats // 2))
    rows = []
    for name, own in seconds.items():
        over = ratio_of(own, seconds["1"])
        density = bits.get(float(name)) if name[0].isdigit() else None
        rows.append(
            {
                "way": name,
                "density": None
                if density is None
                else float(sale.unpack_tiles(density, layout.key_tiles).sum()) / HEADS / layout.causal_tiles(),
                "seconds": statistics.median(own),
                **{f"over_all_tiles_{key}": value for key, value in over.items()},
            }
        )
    return {
        "tokens": length,
        "rows": rows,
        "goal": GOAL,
        "reached": figures["steady"] and figures["ratio"] <= GOAL,
        **figures,
    }


@torch.no_grad()
def memory_alone(length: int) -> dict:
    """To be called in a process of its own."""
    sale = kernels.load("sale-attn")
    q, k, v = inputs(length)
    sale.attend_blocks(q[:, :, :512], k[:, :, :512], v[:, :, :512], sale.select_blocks(q[:, :, :512], k[:, :, :512]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    kept = sale.select_blocks(q, k, 0.004)
    selected = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sale.attend_blocks(q, k, v, tiles_at(length, 0.2))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "tokens": length,
        "peak_more_bytes": after - before,
        "selection_more_bytes": selected - before,
        "tile_bits_bytes": kept.numel(),
        "all_pairs_bytes": length * length,
        "over_all_pairs": (after - before) / length**2,
        "goal": MEMORY_GOAL,
    }


def memory(length: int) -> dict:
    command = [sys.executable, __file__, "--memory-alone", str(length)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    force_option(parser)
    parser.add_argument("--quick", action="store_true", help="2k tokens; writes nothing")
    parser.add_argument("--memory-alone", type=int, metavar="TOKENS", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.memory_alone:
        print(json.dumps(memory_alone(args.memory_alone)))
        return
    quick = args.quick
    with console.status("memory"):
        held = memory(4096 if quick else 32768)
    with console.status("time"):
        payload = {
            "heads": f"{HEADS} heads, {KV_HEADS} of keys, {HEAD_DIM} channels, float32",
            "time": times(2048 if quick else 16384, 2 if quick else args.repeats),
            "memory": held,
        }
    console.print_json(data=payload)
    if not quick:
        console.print(f"wrote {record('sale_cpu', payload, seed=0, timed=True, force=args.force).name}")


if __name__ == "__main__":
    main()
