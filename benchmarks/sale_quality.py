"""
What a trained model loses by SALE, at each density: the bundled MiMo-V2-Flash on held-out sources of the standard library.

    python benchmarks/sale_quality.py            # three seeds, some minutes on one core
    python benchmarks/sale_quality.py --small    # one window of one seed; writes nothing

Windows of 2,048 tokens, the model's context, from random places of the held-out files. Its full layers read by SALE at several
thresholds, by the tiles of largest mean-pooled score, as many of them in each row of tiles as SALE keeps there, and by the sink and the
local area alone. Its other layers have windows of their own and stay as they are. Told are the loss of the tokens after the 512th, how
often the next token is right, and how often it is the one that dense attention would say. `calibrated` has the thresholds that calibration
finds for theta on prompts of random keys and values.
"""

import argparse
import random
import statistics
from collections.abc import Callable

import torch
from _record import record
from rich.console import Console
from rich.progress import Progress
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

import mimo_hf
from mimo_hf import SaleConfig, sale_report, use_sale
from mimo_hf.data import held_out_files
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.modeling.sale import attention_sale, sale_attention_forward
from mimo_hf.modeling.sale.calibration_sale import calibrate
from mimo_hf.modeling.sale.retrieval_prompts import retrieval_prompt

CONTEXT, SKIPPED, MIN = 2048, 512, 256
TAUS = (0.004, 0.02, 0.1, 0.5, 2.0, float("inf"))
THETAS = (0.1, 0.4)
WINDOWS = 4
LIMITS = (
    "a model of some million weights, two of whose layers attend to everything; nothing here speaks of language models of any size",
    "it was trained on short texts and asks little of keys far back: what it loses bounds what SALE costs it, not what long retrieval costs",
)
console = Console(stderr=True)


class MeanPooled:
    """
    An attention that keeps, in each row of tiles, as many tiles as SALE would, of the largest product of mean query and mean key.

    Used as a context: "sale" is this attention inside.
    """

    def __enter__(self):
        self.kernel = attention_sale.kernel()
        AttentionInterface.register("sale", self.forward)

    def __exit__(self, *_):
        AttentionInterface.register("sale", sale_attention_forward)

    def forward(self, module, query, key, value, attention_mask, scaling=None, **options):
        config = attention_sale.config_of(module)
        if attention_sale.why_dense(module, query, key, attention_mask, 0.0, None, config, options):
            return sale_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
        kept = self.kernel.select_blocks(query, key, config.tau_of(module.layer_idx, query.shape[1]), scale=scaling)
        return self.kernel.attend_blocks(
            query, key, value, self.instead_of(kept, query, key), scale=scaling
        ).transpose(1, 2), None

    def instead_of(self, kept: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Bits of as many tiles in each row."""
        sale = self.kernel
        layout = sale.Layout(query.shape[2], key.shape[2], sale.Tiling())
        tiles = sale.unpack_tiles(kept, layout.key_tiles)
        means = _tile_means(key, layout.tiling.block_k).repeat_interleave(query.shape[1] // key.shape[1], 1)
        scores = _tile_means(query, layout.tiling.block_q) @ means.transpose(2, 3)
        for tile in range(layout.query_tiles):
            estimated = layout.estimated(tile)
            own = tiles[:, :, tile, estimated.start : estimated.stop]
            rank = scores[:, :, tile, estimated.start : estimated.stop].argsort(-1, descending=True).argsort(-1)
            tiles[:, :, tile, estimated.start : estimated.stop] = rank < own.sum(-1, keepdim=True)
        return sale.pack_tiles(tiles)


def _tile_means(x: torch.Tensor, size: int) -> torch.Tensor:
    """`[B, H, n, d]` to `[B, H, tiles, d]`; the last tile may be short."""
    return torch.stack([part.mean(2) for part in x.split(size, dim=2)], dim=2)


def windows(tokenizer, seed: int, count: int) -> list[torch.Tensor]:
    rng = random.Random(seed)
    ids = [token for path in held_out_files() for token in tokenizer(path.read_text(encoding="utf-8")).input_ids]
    begins = [rng.randrange(len(ids) - CONTEXT) for _ in range(count)]
    return [torch.tensor([ids[begin : begin + CONTEXT]]) for begin in begins]


@torch.no_grad()
def read(model, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the tokens after those skipped, `[n, vocabulary]`."""
    return model(ids, use_cache=False).logits[0, SKIPPED - 1 : -1].float()


def ways(model, tokenizer) -> dict[str, tuple[SaleConfig, bool]]:
    """By name: settings, and whether tiles are chosen by their means instead."""
    found = {}
    for tau in TAUS:
        name = "sink and local" if tau == float("inf") else f"tau {tau:g}"
        found[name] = SaleConfig(tau=tau, min_seq_len=MIN), False
        if tau < float("inf"):
            found[f"means as many as {name}"] = found[name][0], True
    prompts = [retrieval_prompt(tokenizer, CONTEXT, seed) for seed in range(2)]
    for theta in THETAS:
        config = SaleConfig(theta=theta, min_seq_len=MIN)
        thresholds = calibrate(model, prompts, config, progress=False).thresholds
        found[f"calibrated, theta {theta:g}"] = config.with_thresholds(thresholds), False
    return found


def measure(
    model, ids: torch.Tensor, named: dict[str, tuple[SaleConfig, bool]], moved: Callable[[], object]
) -> list[dict]:
    targets = ids[0, SKIPPED:]
    model.set_attn_implementation("sdpa" if not hasattr(model, "default_attention") else model.default_attention)
    dense = read(model, ids)
    rows = [_row("dense", dense, dense, targets, 1.0)]
    for name, (config, by_means) in named.items():
        use_sale(model, config)
        logits = read(model, ids)
        density = sale_report(model).density
        if by_means:
            with MeanPooled():
                logits = read(model, ids)
        rows.append(_row(name, logits, dense, targets, density))
        moved()
    return rows


def _row(name: str, logits, dense, targets, density: float) -> dict:
    return {
        "way": name,
        "density": density,
        "loss": float(torch.nn.functional.cross_entropy(logits, targets)),
        "right": float((logits.argmax(-1) == targets).float().mean()),
        "same_as_dense": float((logits.argmax(-1) == dense.argmax(-1)).float().mean()),
    }


def summary(rows: list[dict]) -> list[dict]:
    """Means over windows and seeds; what is lost against dense attention, with the seeds' range."""
    table = []
    dense = {(row["seed"], row["window"]): row for row in rows if row["way"] == "dense"}
    for name in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == name]
        line: dict = {"way": name}
        for key in ("density", "loss", "right", "same_as_dense"):
            line[key] = round(statistics.fmean(row[key] for row in own), 4)
        of_seeds = []
        for seed in dict.fromkeys(row["seed"] for row in own):
            more = [row["loss"] - dense[row["seed"], row["window"]]["loss"] for row in own if row["seed"] == seed]
            of_seeds.append(statistics.fmean(more))
        line["loss_more"] = round(statistics.fmean(of_seeds), 4)
        line["loss_more_least"], line["loss_more_most"] = round(min(of_seeds), 4), round(max(of_seeds), 4)
        table.append(line)
    return table


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--small", action="store_true", help="one window of one seed; writes nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    mimo_hf.register()
    folder = bundled("mimo-v2-flash")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.default_attention = model.config._attn_implementation
    seeds, count = (options.seeds[:1], 1) if options.small else (options.seeds, WINDOWS)
    rows = []
    with Progress(console=console) as progress:
        with console.status("calibrating"):
            named = ways(model, tokenizer)
        task = progress.add_task("windows", total=len(seeds) * count * len(named))
        for seed in seeds:
            for window, ids in enumerate(windows(tokenizer, seed, count)):
                found = measure(model, ids, named, lambda: progress.advance(task))
                rows += [{"seed": seed, "window": window, **row} for row in found]
    payload = {
        "model": "bundled MiMo-V2-Flash",
        "context": CONTEXT,
        "skipped": SKIPPED,
        "windows": count,
        "seeds": seeds,
        "limits": list(LIMITS),
        "table": summary(rows),
        "runs": rows,
    }
    console.print_json(data=payload["table"])
    if not options.small:
        console.print(f"wrote {record('sale_quality', payload, timed=False).name}")


if __name__ == "__main__":
    main()
