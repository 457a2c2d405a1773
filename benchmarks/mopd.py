"""
MOPD against other ways to bring the skills of several teachers into one student, on small tasks.

    python benchmarks/mopd.py                                    # everything, three seeds: hours on one core
    python benchmarks/mopd.py --setups near --seeds 0 --methods "mopd full" sft
    python benchmarks/mopd.py --small                            # a few steps of everything; writes nothing

Setups (`_mopd_setups.py`)
    near    add, sort, reverse; teachers are the start, trained a little on one task each
    far     the same from a weaker start, with teachers that have forgotten the other tasks
    long    running sums of 24 digits among the tasks; 300 answers of each teacher for whoever learns from answers
    rl      teachers made by reinforcement, as in the paper

Methods (`_mopd_methods.py`), each from the same start
    mopd full, sampled, topk, topk_teacher    by estimator; the paper's is `sampled`, which gets 192 prompts a step instead of 64
    sft                                       supervised on answers that the teachers sampled, one each to as many prompts
    sequential                                `full`, one teacher after another, as many steps in all
    one teacher                               TRL's DistillationTrainer with one teacher for all prompts
    average                                   start + scale * sum of (teacher - start)
    orm only, mopd full + orm                 the outcome reward alone, and mixed in (alpha 0.5), four answers to a prompt
    mix rl                                    one run of reinforcement on all tasks, as long as teachers and student together

A method that is done is not repeated, and several seeds may run at once; each row is added to `benchmarks/results/mopd_<setup>.json` when it ends. Start and teachers are kept
under `outputs/mopd-study`, as rounding makes others elsewhere: without them a seed begins anew.
"""

import argparse
import contextlib
import fcntl
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from _mopd_methods import METHODS, Trained
from _mopd_setups import PLANS, Plan, Study
from _record import RESULTS, record
from _timing import Load
from rich.console import Console

NUM_TEST = 1000
CACHE = Path(__file__).parents[1] / "outputs" / "mopd-study"
LIMITS = (
    "a model of 245,000 weights on tasks made by hand, few seeds: nothing here speaks of language models of any size",
    "answers are short and have one right form, and prompts without end cost nothing",
    "start, teachers and rate of setup near were chosen on seed 9, start and reinforcement of setup rl, and teachers, steps and rate of setup long too; far was not tuned; all methods took the steps of `mopd full`, and its rate unless `options` says another: none was tuned by itself",
)
console = Console(stderr=True)


def reference_rows(study: Study) -> list[dict]:
    """Start and teachers."""
    rows = [{"method": "start", "accuracy": study.measure(study.start)}]
    for domain, teacher in study.teachers.items():
        rows.append({"method": f"teacher {domain}", "accuracy": study.measure(teacher)})
    return rows


def run_method(name: str, study: Study) -> dict:
    load, wall, cpu = Load(), time.perf_counter(), time.process_time()
    torch.manual_seed(study.seed)
    trained: Trained = METHODS[name](study)
    seconds = {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - cpu}
    return {
        "method": name,
        "accuracy": study.measure(trained.model),
        "prompts": trained.prompts,
        "completions": trained.completions,
        "sampled_by": trained.sampled_by,
        "tokens": trained.tokens,
        "options": trained.options,
        **{key: round(value, 1) for key, value in seconds.items()},
        "busy_cores_elsewhere": load.figures()["busy_cores_elsewhere"],
    }


class Book:
    """
    Rows on record, of one process or of several at a time.

    Args:
        path: the result; None: nothing is written.
    """

    def __init__(self, name: str, plan: Plan, path: Path | None):
        self.name, self.plan, self.path = name, plan, path
        self.kept: list[dict] = []  # where nothing is written

    def rows(self, seed: int | None = None) -> list[dict]:
        rows = self.kept
        if self.path:
            rows = json.loads(self.path.read_text())["runs"] if self.path.exists() else []
        return [row for row in rows if seed in (None, row["seed"])]

    def add(self, seed: int, new: list[dict], anew: bool = False) -> None:
        """`anew`: in the place of the seed's earlier rows."""
        with self._locked():
            kept = [row for row in self.rows() if not anew or row["seed"] != seed]
            self.kept = kept + [{"seed": seed, **row} for row in new]
            if self.path:
                write(self.name, self.plan, sorted(self.kept, key=lambda row: row["seed"]), self.path.parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self.path is None:
            yield
            return
        CACHE.mkdir(parents=True, exist_ok=True)
        with open(CACHE / f"{self.path.stem}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def run_seed(book: Book, seed: int, methods: Sequence[str], num_test: int, folder: Path | None) -> None:
    """Runs what is not on record, and puts it there."""
    study = Study(book.plan, seed, folder, num_test)
    own = book.rows(seed)
    lost = own and folder and not (folder / "start.pt").exists()
    if lost:
        console.print(f"{book.name}, seed {seed}: the models of its rows are gone, so all are made anew")
    if lost or not own:
        book.add(seed, reference_rows(study), anew=True)
    for method in methods:
        if all(row["method"] != method for row in book.rows(seed)):
            console.print(f"{book.name}, seed {seed}: {method}")
            row = run_method(method, study)
            console.print(row)
            book.add(seed, [row])


def closed(rows: Sequence[dict], method: str, seed: int) -> dict[str, float]:
    """Share of the gap between start and own teacher that a method closed, by domain."""
    of = {row["method"]: row["accuracy"] for row in rows if row["seed"] == seed}
    return {
        domain: (of[method][domain] - start) / (of[f"teacher {domain}"][domain] - start)
        for domain, start in of["start"].items()
    }


def summary(rows: Sequence[dict]) -> list[dict]:
    """A row for each method: mean and standard deviation over seeds, and shares of the gap closed."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        domains = list(own[0]["accuracy"])
        line: dict = {"method": method, "seeds": len(own)}
        for domain in domains:
            values = [row["accuracy"][domain] for row in own]
            line[domain] = round(statistics.fmean(values), 4)
            line[f"{domain}_sd"] = round(statistics.stdev(values), 4) if len(values) > 1 else None
        if method != "start" and not method.startswith("teacher "):
            shares = [closed(rows, method, row["seed"]) for row in own]
            line["gap_closed"] = {d: round(statistics.fmean(share[d] for share in shares), 4) for d in domains}
            line["least_gap_closed_by_seed"] = [round(min(share.values()), 4) for share in shares]
            line["least_over_teacher_by_seed"] = [round(least_over_teacher(rows, row), 4) for row in own]
            line |= {key: own[0][key] for key in ("prompts", "completions", "tokens")}
            line["processor_s"] = round(statistics.fmean(row["processor_s"] for row in own), 1)
        found.append(line)
    return found


def least_over_teacher(rows: Sequence[dict], row: dict) -> float:
    """The student's lead over the teacher in the domain where it is least: the abstract claims none below 0."""
    of = {other["method"]: other["accuracy"] for other in rows if other["seed"] == row["seed"]}
    return min(value - of[f"teacher {domain}"][domain] for domain, value in row["accuracy"].items())


def reduced(plan: Plan) -> Plan:
    """A few steps of everything, to see that it runs."""
    rl = replace(plan.rl, steps=1, prompts=2, group=2) if plan.rl else None
    setup = replace(plan.setup, start_steps=3, teacher_steps=2, steps=3, prompts=6)
    return replace(plan, setup=setup, rl=rl)


def write(name: str, plan: Plan, rows: list[dict], folder: Path) -> None:
    payload = {
        "setup": plan.summary,
        "limits": list(LIMITS),
        "settings": asdict(plan.setup) | {"reinforcement": asdict(plan.rl) if plan.rl else None},
        "measured_on": f"{NUM_TEST} test problems of each domain, sampled at temperature 1",
        "seeds": sorted({row["seed"] for row in rows}),
        "table": summary(rows),
        "runs": rows,
    }
    record(f"mopd_{name}", payload, folder=folder, command=f"python benchmarks/mopd.py --setups {name}", timed=False)


def study(
    name: str, seeds: Sequence[int], methods: Sequence[str] | None = None, small: bool = False, folder: Path = RESULTS
) -> list[dict]:
    """Runs what is not on record."""
    plan = PLANS[name]
    methods = [method for method in plan.methods if methods is None or method in methods]
    book = Book(name, reduced(plan), None) if small else Book(name, plan, folder / f"mopd_{name}.json")
    for seed in seeds:
        run_seed(book, seed, methods, 8 if small else NUM_TEST, None if small else CACHE / f"{name}-{seed}")
    return book.rows()


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setups", nargs="+", choices=list(PLANS), default=list(PLANS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="default: the setup's")
    parser.add_argument("--small", action="store_true", help="a few steps of everything; writes nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in options.setups:
        rows = study(name, options.seeds, options.methods, options.small)
        if not options.small:
            console.print_json(data=summary(rows))


if __name__ == "__main__":
    main()
