"""
What three teachers cost beside one: time of a step, and weights in memory.

    python benchmarks/mopd_step.py              # minutes on one core, on a machine that does nothing else
    python benchmarks/mopd_step.py --quick      # tiny sizes, two steps; writes nothing

A student with an adapter on a base of random weights learns from three teachers, of which each scores a third of the rows: as adapters on
the student's base, or as models of their own. Beside it TRL's DistillationTrainer has one teacher, a model, for all rows. Prompts,
lengths and estimator (reverse KL over all tokens) are equal, and the trainers take turns. The goal: with adapters a step
takes at most 1.15 times as long as TRL's.
"""

import argparse
import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
from _mopd_step import Shape, held_bytes, mopd_trainer, save_adapters, tokens_of, trl_trainer
from _record import force_option, record
from _timing import ratio_of, steady_ratio
from rich.console import Console

GOAL = 1.15
SHAPE = Shape(hidden_size=256, layers=4, heads=4, vocab_size=4096, rows=24, prompt_tokens=32, new_tokens=32)
QUICK = replace(SHAPE, hidden_size=32, layers=2, vocab_size=64, rows=6, prompt_tokens=8, new_tokens=4, rank=4)
console = Console(stderr=True)


def compare(shape: Shape, steps: int, repeats: int) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapters = save_adapters(shape, folder)
        trainers = {"trl, one teacher": trl_trainer(shape, adapters, folder, steps)}
        for kind in ("adapters", "copies"):
            trainers[f"mopd, {kind}"] = mopd_trainer(kind, shape, adapters, folder, steps, "full")
        trainers["mopd, adapters, sampled"] = mopd_trainer("adapters", shape, adapters, folder, steps, "sampled")
        weights = {arm: held_bytes(trainer) for arm, trainer in trainers.items()}
        runs = {arm: trainer.train for arm, trainer in trainers.items()}
        figures, seconds = steady_ratio(runs, "mopd, adapters", "trl, one teacher", repeats)
        rows = []
        for arm, own in seconds.items():
            over = ratio_of(own, seconds["trl, one teacher"])
            rows.append(
                {
                    "arm": arm,
                    "step_s": statistics.median(own) / steps,
                    **{f"over_trl_{key}": value for key, value in over.items()},
                    "tokens_a_training": tokens_of(trainers[arm]),
                    "weights_bytes": weights[arm],
                }
            )
        reached = figures["steady"] and figures["ratio"] <= GOAL
        return {
            "shape": asdict(shape),
            "steps_a_turn": steps,
            "rows": rows,
            "goal": GOAL,
            "reached": reached,
            **figures,
        }


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--repeats", type=int, default=7)
    force_option(parser)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, two steps; writes nothing")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    payload = compare(QUICK, 1, 2) if args.quick else compare(SHAPE, args.steps, args.repeats)
    console.print_json(data=payload)
    if not args.quick:
        console.print(f"wrote {record('mopd_step', payload, seed=0, timed=True, force=args.force).name}")


if __name__ == "__main__":
    main()
