"""
Full attention, hybrid sliding window and HySparse, trained alike at an equal number of parameters, and ablations of HySparse.

    python benchmarks/hysparse_quality.py --experiment chain                 # three hops, 64 positions; see _hysparse_experiments.py
    python benchmarks/hysparse_quality.py --experiment chain --seeds 0 --arms full hysparse
    python benchmarks/hysparse_quality.py --experiment chain --small         # seconds, to see that it runs; writes nothing

Every arm is first trained once with each learning rate of the experiment's grid, on a seed and on rows of their own; the
best rate is used for the table. A finished run is not repeated: each is added to
`benchmarks/results/hysparse_quality_<experiment>.json` when it ends, failed ones too, and the table is made from them.
"""

import argparse
import json
import math
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from _hysparse_arms import ARMS, matched_width, num_parameters
from _hysparse_chain import ChainModel, accuracy, run_chain, with_topk
from _hysparse_experiments import EXPERIMENTS, LIMITS, Experiment
from _hysparse_text import run_text, text_rows
from _record import RESULTS, record
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mimo_hf.drawing import line_chart, save

console = Console(stderr=True)

TUNING_SEED, TUNING_ROWS_SEED, TEST_ROWS_SEED = 100, 9001, 9002
SMALL = {"steps": 8, "batch_size": 4, "test_rows": 8}


def run_one(name: str, small: bool, arm: str, role: str, seed: int, learning_rate: float) -> dict:
    """Trains and tests one model. A run that fails is on record with its error."""
    torch.set_num_threads(1)
    experiment = EXPERIMENTS[name]
    sizes = SMALL if small else {key: getattr(experiment, key) for key in SMALL}
    test_seed = TUNING_ROWS_SEED if role == "tuning" else TEST_ROWS_SEED
    training = {"steps": sizes["steps"], "batch_size": sizes["batch_size"], "learning_rate": learning_rate}
    width = matched_width(arm, experiment, experiment.width)
    config = experiment.config(arm, width)
    torch.manual_seed(seed)
    model = experiment.build(config)
    row = {
        "arm": arm,
        "role": role,
        "seed": seed,
        "learning_rate": learning_rate,
        "parameters": num_parameters(model),
        "intermediate_size": width,
        "steps": sizes["steps"],
        "status": "ok",
    }
    try:
        if experiment.builder == "text":
            length = experiment.task["length"]
            train_rows = text_rows("train", sizes["steps"] * sizes["batch_size"], length, seed)
            test_rows = text_rows("held_out", sizes["test_rows"], length, test_seed)
            return row | run_text(model, train_rows, test_rows, **training)
        train_rows = experiment.rows(sizes["steps"] * sizes["batch_size"], seed)
        row |= run_chain(model, train_rows, experiment.rows(sizes["test_rows"], test_seed), **training)
        if role == "table":
            row |= longer_contexts(experiment, model, sizes["test_rows"])
    except (RuntimeError, FloatingPointError) as error:
        row["status"] = f"failed: {error}"
    return row


def longer_contexts(experiment: Experiment, model: ChainModel, num_rows: int) -> dict:
    """Accuracy of the last hop by context, and by the number of selected tokens where there is a selection."""
    config, found = model.trunk.config, []
    selects = "sliding_attention" in config.layer_types and config.use_sparse_branch
    for filler in experiment.fillers:
        rows = experiment.rows(num_rows, TEST_ROWS_SEED, filler=filler)
        for topk in experiment.topk_tokens if selects else (config.sparse_topk_tokens,):
            share = accuracy(with_topk(model, topk), rows, batch_size=8)[-1]
            context = rows["tag"].shape[1]
            found.append({"context": context, "topk_tokens": topk if selects else None, "last_hop": round(share, 5)})
    return {"by_context": found} if found else {}


# Which runs


@dataclass
class Study:
    """The runs of one experiment that are on record, and those that are missing."""

    name: str
    folder: Path = RESULTS
    small: bool = False
    runs: list[dict] = field(default_factory=list)

    @property
    def experiment(self) -> Experiment:
        return EXPERIMENTS[self.name]

    @property
    def path(self) -> Path:
        return self.folder / f"hysparse_quality_{self.name}.json"

    def load(self) -> "Study":
        if self.path.exists() and not self.small:
            self.runs = json.loads(self.path.read_text())["runs"]
        return self

    def has(self, arm: str, role: str, seed: int, rate: float) -> bool:
        wanted = (arm, role, seed, rate)
        return any((run["arm"], run["role"], run["seed"], run["learning_rate"]) == wanted for run in self.runs)

    def missing_tuning(self, arms: list[str]) -> list[tuple]:
        rates = () if self.experiment.rates_of else self.experiment.learning_rates
        wanted = [(arm, "tuning", TUNING_SEED, rate) for arm in arms for rate in rates]
        return [run for run in wanted if not self.has(*run)]

    def missing_table(self, arms: list[str], seeds: list[int]) -> list[tuple]:
        wanted = []
        for arm in arms:
            rate = self.experiment.learning_rates[0] if self.small else self.tuned_rate(arm)
            if rate is None:
                source = self.experiment.rates_of or self.name
                raise ValueError(
                    f"no tuning run of `{arm}` is on record: run `--experiment {source} --arms {arm}` first."
                )
            wanted += [(arm, "table", seed, rate) for seed in seeds]
        return [run for run in wanted if not self.has(*run)]

    def tuned_rate(self, arm: str) -> float | None:
        """That of the best tuning run; of equal ones the smaller rate. None: there is no such run."""
        if self.experiment.rates_of:
            return Study(self.experiment.rates_of, self.folder).load().tuned_rate(arm)
        tuned = [run for run in self.runs if run["arm"] == arm and run["role"] == "tuning" and run["status"] == "ok"]
        best = max(tuned, key=lambda run: (quality(run), -run["learning_rate"]), default=None)
        return best and best["learning_rate"]

    def table_runs(self) -> list[dict]:
        """Those with the tuned rate; a rate that later tuning replaced leaves runs on record that count no more."""
        table = [run for run in self.runs if run["role"] == "table"]
        return [run for run in table if self.small or run["learning_rate"] == self.tuned_rate(run["arm"])]

    def add(self, run: dict):
        self.load()  # with what other processes have added since
        if self.has(run["arm"], run["role"], run["seed"], run["learning_rate"]):
            return
        self.runs.append(run)
        order = list(ARMS)
        self.runs.sort(key=lambda run: (run["role"], order.index(run["arm"]), run["seed"], run["learning_rate"]))
        self.write()

    def write(self):
        """Writes the file anew where it would change: a reader sees the old or the new one, never half of it."""
        payload = json.loads(json.dumps(self.payload()))
        on_disk = json.loads(self.path.read_text()) if self.path.exists() else {}
        if self.small or not self.runs or all(on_disk.get(name) == value for name, value in payload.items()):
            return
        staging = self.folder / f".{self.path.stem}"
        written = record(self.path.stem, payload, folder=staging, command=self.command(), timed=False)
        os.replace(written, self.path)
        staging.rmdir()
        if payload["by_context"]:
            save(plot(payload["by_context"], self.name), self.path.with_suffix(".png"))

    def command(self) -> str:
        return f"python benchmarks/hysparse_quality.py --experiment {self.name}"

    def payload(self) -> dict:
        experiment = self.experiment
        return {
            "experiment": experiment.summary,
            "limits": [*LIMITS, *experiment.limits],
            "training": {
                "steps": experiment.steps,
                "rows_a_step": experiment.batch_size,
                "test_rows": experiment.test_rows,
                "learning_rates_tried": f"those of {experiment.rates_of}"
                if experiment.rates_of
                else list(experiment.learning_rates),
                "tuning": f"seed {TUNING_SEED}, rows of their own",
            },
            "task": {"builder": experiment.builder, **experiment.task},
            "shape": experiment.shape,
            "table": summary(self.table_runs()),
            "oracle": oracle_summary(self.table_runs()),
            "by_context": context_summary(self.table_runs()),
            "runs": self.runs,
        }


def quality(run: dict) -> float:
    """The last hop, or bits a byte with a minus: larger is better."""
    return run["accuracy"][-1] if "accuracy" in run else -run["bits_a_byte"]


def summary(runs: list[dict]) -> list[dict]:
    """One row an arm: means over the seeds, and the range of what counts, the last hop or bits a byte."""
    rows = []
    for arm in ARMS:
        of_arm = [run for run in runs if run["arm"] == arm]
        done = [run for run in of_arm if run["status"] == "ok"]
        if not of_arm:
            continue
        row = {
            "arm": arm,
            "parameters": of_arm[0]["parameters"],
            "learning_rate": of_arm[0]["learning_rate"],
            "seeds": len(done),
            "failed": len(of_arm) - len(done),
        }
        for hop, shares in enumerate(zip(*(run.get("accuracy", []) for run in done), strict=True), start=1):
            row[f"hop_{hop}"] = round(statistics.fmean(shares), 4)
        if done and "accuracy" in done[0]:
            row |= {"last_hop_min": min(map(quality, done)), "last_hop_max": max(map(quality, done))}
        elif done:
            bits = [run["bits_a_byte"] for run in done]
            row |= {"bits_a_byte": round(statistics.fmean(bits), 4), "min": min(bits), "max": max(bits)}
        rows.append(row)
    return rows


def context_summary(runs: list[dict]) -> list[dict]:
    """One row for each arm, context and number of selected tokens: the last hop, mean and range over the seeds."""
    found: dict[tuple, list[float]] = {}
    for run in runs:
        for row in run.get("by_context", []):
            found.setdefault((run["arm"], row["context"], row["topk_tokens"]), []).append(row["last_hop"])
    return [
        {
            "arm": arm,
            "context": context,
            "topk_tokens": topk,
            "last_hop": round(statistics.fmean(shares), 4),
            "min": min(shares),
            "max": max(shares),
        }
        for (arm, context, topk), shares in found.items()
    ]


def plot(by_context: list[dict], name: str) -> torch.Tensor:
    """The last hop over the context, a curve for each arm and number of selected tokens."""
    found = {(row["arm"], row["topk_tokens"], row["context"]): row["last_hop"] for row in by_context}
    contexts = sorted({context for *_, context in found})
    series = {
        arm if topk is None else f"{arm}, {topk} tokens": [
            found.get((arm, topk, context), math.nan) for context in contexts
        ]
        for arm, topk in dict.fromkeys(key[:2] for key in found)
    }
    return line_chart(contexts, series, title=name, x_label="context (tokens)", y_label="accuracy of the last hop")


def oracle_summary(runs: list[dict]) -> list[dict]:
    """One row for each arm and sparse layer, means over the seeds."""
    found: dict[tuple, list[dict]] = {}
    for run in runs:
        for row in run.get("oracle", []):
            found.setdefault((run["arm"], row["layer"], row["distance"]), []).append(row)
    return [
        {
            "arm": arm,
            "layer": layer,
            "distance": distance,
            "recall": round(statistics.fmean(row["recall"] for row in rows), 3),
            "missed_mass": round(statistics.fmean(row["missed_mass"] for row in rows), 3),
            "link_selected": [
                round(statistics.fmean(shares), 3)
                for shares in zip(*(row["link_selected"] for row in rows), strict=True)
            ],
        }
        for (arm, layer, distance), rows in found.items()
    ]


def finished(name: str, small: bool, runs: list[tuple], jobs: int) -> Iterator[dict]:
    if jobs == 1:
        for run in runs:
            yield run_one(name, small, *run)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(run_one, name, small, *run) for run in runs]
        for future in as_completed(waiting):
            yield future.result()


def study(name: str, arms: list[str], seeds: list[int], small: bool, jobs: int, folder: Path = RESULTS) -> Study:
    """Runs what is missing: first the learning rates, then the table."""
    on_record = Study(name, folder, small).load()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for phase in ("learning rates", "table"):
            missing = (
                on_record.missing_tuning(arms) if phase == "learning rates" else on_record.missing_table(arms, seeds)
            )
            bar = progress.add_task(f"{name}, {phase}", total=len(missing))
            for run in finished(name, small, missing, jobs):
                on_record.add(run)
                progress.advance(bar)
                shares = " ".join(
                    f"{share:.3f}" for share in run.get("accuracy", [run.get("bits_a_byte", float("nan"))])
                )
                progress.console.print(
                    f"{run['arm']}, {run['role']}, seed {run['seed']}, {run['learning_rate']}: {shares or run['status']}"
                )
    on_record.load().write()
    return on_record


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", choices=[*EXPERIMENTS, "all"], default="chain", help="default: %(default)s")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="default: those of the experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--jobs", type=int, default=1, help="processes, a thread each (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="a few steps of everything; writes nothing")
    args = parser.parse_args(argv)
    for name in EXPERIMENTS if args.experiment == "all" else [args.experiment]:
        arms = args.arms or list(EXPERIMENTS[name].arms)
        found = study(name, arms, args.seeds, args.small, args.jobs)
        console.print_json(data=summary(found.table_runs()))


if __name__ == "__main__":
    main()
