"""
MOPD on a GPU: time of a step and peak memory with three teachers as adapters, as models, and as models that rest in CPU memory.

    python benchmarks/gpu_mopd.py
    python benchmarks/gpu_mopd.py --device cpu --quick     # only to see that it runs; times nothing, writes nothing

A student with an adapter on a base of random bf16 weights, about 0.6 billion by default; each teacher scores a third of the rows. TRL's
DistillationTrainer with one teacher takes turns with them. Two goals are judged: with adapters a step takes at most 1.15 times as
long as TRL's, and with offload the peak is at most that of TRL's trainer, whose one teacher is as large as the largest here.
"""

import argparse
import gc
import statistics
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from _mopd_step import KINDS, Shape, mopd_trainer, save_adapters, tokens_of, trl_trainer
from _record import force_option, record
from _timing import ratio_of
from rich.console import Console

GOAL = 1.15
TRL = "trl, one teacher"
console = Console(stderr=True)


def measure(make, steps: int, device: str) -> dict:
    """Median seconds of a step after a first training, the peak of allocated memory, and the tokens of a training."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = make()
    trainer.train()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        trainer.train()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - began) / steps)
    found = {"seconds": seconds, "tokens_a_training": tokens_of(trainer), "peak_bytes": None}
    if device == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


def compare(shape: Shape, steps: int, rounds: int, estimators: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapters = save_adapters(shape, folder)
        arms = {TRL: partial(trl_trainer, shape, adapters, folder, steps)}
        for kind in KINDS:
            for estimator in estimators:
                make = partial(mopd_trainer, kind, shape, adapters, folder, steps, estimator)
                arms[f"mopd, {kind}, {estimator}"] = make
        found: dict[str, list[dict]] = {arm: [] for arm in arms}
        for turn in range(rounds):
            for arm in list(arms) if turn % 2 == 0 else list(reversed(arms)):
                found[arm].append(measure(arms[arm], steps, shape.device))
    rows = []
    below = [second for run in found[TRL] for second in run["seconds"]]
    for arm, runs in found.items():
        own = [second for run in runs for second in run["seconds"]]
        peaks = [run["peak_bytes"] for run in runs]
        rows.append(
            {
                "arm": arm,
                "step_s": statistics.median(own),
                **{f"over_trl_{key}": value for key, value in ratio_of(own, below).items()},
                "tokens_a_training": runs[0]["tokens_a_training"],
                "peak_bytes": None if None in peaks else max(peaks),
            }
        )
    return {"shape": asdict(shape), "steps_a_training": steps, "rows": rows, "goals": goals(rows)}


def goals(rows: list[dict]) -> dict[str, dict]:
    of = {row["arm"]: row for row in rows}
    found = {}
    for name, arm, key, limit in (
        ("adapters: a step at most 1.15 x TRL's", "mopd, adapters, full", "step_s", GOAL),
        ("offload: peak at most that of TRL's", "mopd, offload, full", "peak_bytes", 1.0),
    ):
        if arm in of and of[arm][key] and of[TRL][key]:
            value = of[arm][key] / of[TRL][key]
            found[name] = {"value": value, "reached": value <= limit}
    return found


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden-size", type=int, default=1280)
    parser.add_argument("--rows", type=int, default=24, help="of a step")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="of a training")
    parser.add_argument("--rounds", type=int, default=2, help="turns that each arm takes")
    parser.add_argument("--estimators", nargs="+", default=["full", "sampled"])
    force_option(parser)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is present; --device cpu --quick shows that the script runs, and times nothing")
    if args.device == "cpu" and not args.quick:
        parser.error("--device cpu goes with --quick: on a CPU nothing is timed here; see mopd_step.py")
    shape = Shape(
        args.hidden_size,
        args.layers,
        args.hidden_size // 64,
        32768,
        args.rows,
        64,
        args.new_tokens,
        device=args.device,
    )
    if args.quick:
        shape = Shape(32, 2, 4, 64, 6, 8, 4, rank=4, device=args.device)
        args.steps, args.rounds = 1, 1
    payload = compare(shape, args.steps, args.rounds, args.estimators)
    console.print_json(data=payload)
    if args.device == "cuda" and not args.quick:
        console.print(f"wrote {record('gpu_mopd', payload, seed=0, timed=True, force=args.force).name}")


if __name__ == "__main__":
    main()
