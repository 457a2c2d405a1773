"""
What a model that looks far back loses by SALE, at each density: a small Llama, trained here to find records in long source text.

    python benchmarks/sale_quality.py            # three seeds, some minutes each on one core
    python benchmarks/sale_quality.py --small    # an untrained model, one short text; writes nothing

Texts are held-out files of the standard library in which single tokens stand for records, a key with its value; at their end all keys are
asked for (`_sale_model.py`). Read are they by dense attention, by SALE at several thresholds, by the tiles of largest mean-pooled score,
as many of them in each row of tiles as SALE keeps there, and by the sink and the local area alone. Told are the share of values that are
right, and the loss of the source's tokens in the second half of texts without records. `calibrated` has the thresholds that calibration
finds for theta on two texts of their own, from a threshold of 2 on. Models are kept under `outputs/sale-quality`.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from _record import RESULTS, record
from _sale_model import ASKED, CONTEXT, RECORDS, STAGES, Texts, make_model, sources, train
from rich.console import Console
from rich.progress import Progress
from transformers import AttentionInterface, LlamaForCausalLM

from mimo_hf import SaleConfig, sale_report, use_sale
from mimo_hf.drawing import line_chart, save
from mimo_hf.modeling.sale import attention_sale, sale_attention_forward
from mimo_hf.modeling.sale.calibration_sale import calibrate

CONTEXTS = (1024, 2048, 4096)
MIN = 256
TAUS = (0.02, 0.1, 0.3, 1.0)
THETAS = (0.4, 1.0, 3.0)
TAU_INIT = 2.0  # where calibration begins; from the published 0.008 on nothing is found that this model would miss
ASKING, PLAIN = 8, 4  # texts of each context
CACHE = Path(__file__).parents[1] / "outputs" / "sale-quality"
LIMITS = (
    "a Llama of two layers on records made by hand: nothing here speaks of language models of any size",
    "a record is one token, so that one layer can find it; the source's tokens ask little of what lies far back",
    "shape, rates and lengths of the training were chosen on another seed",
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
        if attention_sale.why_dense(module, query, key, value, attention_mask, 0.0, None, config, options):
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


def trained(seed: int, progress: Progress) -> LlamaForCausalLM:
    """The seed's model, from `CACHE` where it is there."""
    texts, _ = sources()
    torch.manual_seed(seed)
    model = make_model(texts.vocab_size)
    path = CACHE / f"{seed}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    rng = np.random.default_rng(seed)
    task = progress.add_task(f"training, seed {seed}", total=sum(stage.steps for stage in STAGES))
    for stage in STAGES:
        train(model, texts, stage, rng, lambda right: progress.advance(task))
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


def test_texts(texts: Texts, context: int, counts: tuple[int, int], seed: int) -> tuple[list, list[torch.Tensor]]:
    """Texts with records and the places of questions, and texts without records."""
    rng = np.random.default_rng([seed, context])
    asking = [texts.test_row(rng, context) for _ in range(counts[0])]
    plain = [torch.from_numpy(texts.code_window(rng, context))[None] for _ in range(counts[1])]
    return [(torch.from_numpy(ids)[None], torch.from_numpy(questions)) for ids, questions in asking], plain


@torch.no_grad()
def measure(model: LlamaForCausalLM, asking: list, plain: list[torch.Tensor]) -> dict[str, float]:
    """Share of right values, the loss of plain source, and the density that SALE reports, 1 where it was not asked."""
    right, losses, densities = [], [], []
    for ids, questions in asking:
        logits = model(ids, use_cache=False).logits[0]
        right.append(float((logits[questions].argmax(-1) == ids[0, questions + 1]).float().mean()))
        densities.append(density_of(model))
    for ids in plain:
        half = ids.shape[1] // 2
        logits = model(ids, use_cache=False).logits[0, half - 1 : -1]
        losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, half:])))
    found = {"accuracy": right, "loss": losses, "density": densities}
    return {name: statistics.fmean(values) for name, values in found.items()}


def density_of(model: LlamaForCausalLM) -> float:
    return sale_report(model).density if model.config._attn_implementation == "sale" else 1.0


def ways(model: LlamaForCausalLM, texts: Texts, context: int, seed: int) -> Iterator[tuple[str, SaleConfig, bool]]:
    """Name, settings, and whether tiles are chosen by their means instead."""
    for tau in TAUS:
        yield f"tau {tau:g}", SaleConfig(tau=tau, min_seq_len=MIN), False
        yield f"means as many as tau {tau:g}", SaleConfig(tau=tau, min_seq_len=MIN), True
    yield "sink and local", SaleConfig(tau=float("inf"), min_seq_len=MIN), False
    rng = np.random.default_rng([seed, context, 1])
    prompts = [torch.from_numpy(texts.test_row(rng, context)[0]) for _ in range(2)]
    for theta in THETAS:
        config = SaleConfig(theta=theta, tau_init=TAU_INIT, min_seq_len=MIN)
        thresholds = calibrate(model, prompts, config, progress=False).thresholds
        yield f"calibrated, theta {theta:g}", config.with_thresholds(thresholds), False


def compare(model: LlamaForCausalLM, context: int, counts: tuple[int, int], seed: int) -> list[dict]:
    """A row for each way to read."""
    known, held_out = sources()
    asking, plain = test_texts(held_out, context, counts, seed)
    model.set_attn_implementation("sdpa")
    rows = [{"way": "dense", **measure(model, asking, plain)}]
    for name, config, by_means in ways(model, known, context, seed):
        use_sale(model, config)
        if by_means:
            with MeanPooled():
                found = measure(model, asking, plain)
            found["density"] = rows[-1]["density"]  # as many, by `instead_of`
        else:
            found = measure(model, asking, plain)
        rows.append({"way": name, **found})
    return [{"seed": seed, "context": context, **row} for row in rows]


def summary(rows: list[dict]) -> list[dict]:
    """Means over seeds by context and way, and what is lost against dense attention."""
    table = []
    for context in dict.fromkeys(row["context"] for row in rows):
        here = [row for row in rows if row["context"] == context]
        dense = {row["seed"]: row for row in here if row["way"] == "dense"}
        for name in dict.fromkeys(row["way"] for row in here):
            own = [row for row in here if row["way"] == name]
            line: dict = {"context": context, "way": name, "seeds": len(own)}
            for key in ("density", "accuracy", "loss"):
                line[key] = round(statistics.fmean(row[key] for row in own), 4)
            line["density_most"] = round(max(row["density"] for row in own), 4)
            line["accuracy_less_by_seed"] = [round(dense[row["seed"]]["accuracy"] - row["accuracy"], 4) for row in own]
            line["loss_more_by_seed"] = [round(row["loss"] - dense[row["seed"]]["loss"], 4) for row in own]
            table.append(line)
    return table


def frontier(table: list[dict], most_lost: float = 0.01) -> list[dict]:
    """For each context the sparsest way of SALE's that loses at most a point in every seed."""
    found = []
    for context in dict.fromkeys(line["context"] for line in table):
        near = [
            line
            for line in table
            if line["context"] == context
            and line["way"].startswith(("tau", "calibrated"))
            and max(line["accuracy_less_by_seed"]) <= most_lost
        ]
        if near:
            found.append(min(near, key=lambda line: line["density"]))
    return found


def picture(table: list[dict], context: int):
    """Accuracy by density, SALE's own choice and means', at the longest context."""
    lines = {}
    for label, begins in {"SALE": "tau", "mean pooling": "means as many as tau"}.items():
        own = sorted(
            (line["density"], line["accuracy"])
            for line in table
            if line["context"] == context and line["way"].startswith(begins)
        )
        lines[label] = own
    densities = sorted({density for own in lines.values() for density, _ in own})
    series = {label: [dict(own).get(density, float("nan")) for density in densities] for label, own in lines.items()}
    return line_chart(
        densities, series, x_label="density", y_label="right values", title=f"Records found in {context:,} tokens"
    )


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--small", action="store_true", help="an untrained model, one short text; writes nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    with Progress(console=console) as progress:
        if options.small:
            rows = compare(make_model(sources()[0].vocab_size).eval(), CONTEXTS[0], (1, 1), options.seeds[0])
        for seed in [] if options.small else options.seeds:
            model = trained(seed, progress)
            task = progress.add_task(f"reading, seed {seed}", total=len(CONTEXTS))
            for context in CONTEXTS:
                rows += compare(model, context, (ASKING, PLAIN), seed)
                progress.advance(task)
    table = summary(rows)
    console.print_json(data=table)
    if options.small:
        return
    payload = {
        "model": f"Llama, {sum(p.numel() for p in model.parameters()):,} weights, trained in texts of up to {CONTEXT} tokens",
        "records": RECORDS,
        "asked_among_the_last": ASKED,
        "texts": {"asking": ASKING, "plain": PLAIN},
        "tau_init": TAU_INIT,
        "seeds": options.seeds,
        "stages": [vars(stage) for stage in STAGES],
        "limits": list(LIMITS),
        "frontier": frontier(table),
        "table": table,
        "runs": rows,
    }
    save(picture(table, CONTEXTS[-1]), RESULTS / "sale_quality.png")
    console.print(f"wrote {record('sale_quality', payload, timed=False).name}")


if __name__ == "__main__":
    main()
