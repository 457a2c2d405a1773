"""
Runs TRL's own tests of GRPOTrainer with the trainers of this project in its place, all features off, and TRL's class as control.

    git clone --branch v1.16.0 --depth 1 https://github.com/huggingface/trl CHECKOUT
    pip install jmespath    # or thirteen tests of tools are skipped
    python tests/peer/trl_trainers.py --upstream CHECKOUT

The source distribution of TRL has no tests, so --upstream is a checkout of its repository, at best at the installed version's
tag. Models and texts of the Hub are replaced by small ones made here (`_trl_stand_ins.py`); tests that need others are skipped, and
the reason names them. Beside outcomes, the weights that each training ends with are compared bit for bit with the control's.

Takes about fifteen minutes a trainer on one core; each is written when it is done. The result is
benchmarks/results/peer_trl.json, told in docs/peer_tests.md.
"""

import argparse
import json
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import _peer
import _record

CONTROL = "GRPOTrainer"
TRAINERS = (CONTROL, "DynamicSamplingGRPOTrainer", "JudgeRLVRTrainer")
TESTS = "tests/test_grpo_trainer.py"
NAME = "peer_trl"


def main():
    arguments = parse_arguments()
    file = _record.RESULTS / f"{NAME}.json"
    upstream = origin(arguments.upstream)
    trainers = earlier(file, upstream)
    for trainer in arguments.trainer or TRAINERS:
        print(f"{trainer}: {TESTS}", flush=True)
        with tempfile.TemporaryDirectory(prefix="peer-") as folder:
            work = Path(folder)
            lay_tests(work, arguments.upstream)
            tests, weights = run_trainer(work, trainer, arguments.keyword)
        _peer.tell(tests)
        trainers[trainer] = {**_peer.entry(tests), "trainings": len(weights), "weights": weights}
        if not arguments.keyword:
            write(trainers, upstream)
    _peer.close(file, arguments.keyword)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--upstream", type=Path, required=True, metavar="CHECKOUT", help="a checkout of TRL's repository"
    )
    parser.add_argument(
        "--trainer", action="append", choices=TRAINERS, help="may be given several times; default: all"
    )
    parser.add_argument(
        "-k", dest="keyword", metavar="EXPRESSION", help="only these tests, as in pytest; nothing is written"
    )
    arguments = parser.parse_args(words)
    if not (arguments.upstream / TESTS).is_file():
        parser.error(
            f"--upstream must be a folder with {TESTS}; {arguments.upstream} has none. "
            "Clone TRL's repository (first line of this help): its source distribution has no tests."
        )
    return arguments


def origin(upstream: Path) -> dict[str, str]:
    """Which tests these are: those of `_peer.origin`, and the version in the checkout."""
    file = upstream / "VERSION"
    version = {"version": file.read_text(encoding="utf-8").strip()} if file.is_file() else {}
    return {"file": TESTS, **version, **_peer.origin(upstream, TESTS)}


def lay_tests(work: Path, upstream: Path):
    from _trl_stand_ins import make_all

    shutil.copytree(upstream / "tests", work / "tests")
    for model, reason in make_all(work).items():
        print(f"  no stand-in for {model}: {reason}", file=sys.stderr)


def run_trainer(work: Path, trainer: str, keyword: str | None) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Outcome and reason of each test, and a line for each training: the test and what its weights end as."""
    weights = work / "weights.jsonl"
    weights.touch()
    settings = {"PEER_TRAINER": trainer, "PEER_WEIGHTS": str(weights)}
    tests = _peer.run(work, TESTS, ("_trl_swap",), keyword, settings)
    lines = [json.loads(line) for line in weights.read_text(encoding="utf-8").splitlines()]
    return tests, [f"{line['test'].partition('::')[2]} {line['weights']}" for line in lines]


def earlier(file: Path, upstream: dict[str, str]) -> dict[str, dict]:
    """Trainers of an earlier run of the same tests with the same TRL, which a run of others (--trainer) leaves as they are."""
    if not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    same = content["versions"]["trl"] == version("trl") and content["upstream"] == upstream
    return content["trainers"] if same else {}


def compared(trainers: dict[str, dict]) -> dict[str, dict]:
    """Each trainer with how many of its trainings end with the control's weights, bit for bit, and whose outcome differs."""
    control = trainers.get(CONTROL)
    for name, own in trainers.items():
        if control is None or name == CONTROL:
            continue
        own["with_the_controls_weights"] = sum(
            a == b for a, b in zip(own["weights"], control["weights"], strict=False)
        )
        own["other_outcome_than_the_control"] = sorted(
            (set(own["passes"]) ^ set(control["passes"])) | (own["failures"].keys() ^ control["failures"].keys())
        )
    return {name: trainers[name] for name in TRAINERS if name in trainers}


def write(trainers: dict[str, dict], upstream: dict[str, str]):
    more = {}
    for package in ("accelerate", "datasets", "peft"):
        try:
            more[package] = version(package)
        except PackageNotFoundError:
            continue
    payload = {
        "upstream": upstream,
        "more_versions": more,
        "not_run": [name for name in TRAINERS if name not in trainers],
        "trainers": compared(trainers),
    }
    _record.record(NAME, payload, 0, "python tests/peer/trl_trainers.py --upstream CHECKOUT", timed=False)


if __name__ == "__main__":
    main()
