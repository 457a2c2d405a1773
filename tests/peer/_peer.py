"""What both scripts share: pytest in a process of its own on tests of another project, and how its outcomes are put on record."""

import hashlib
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import _outcomes
import _record

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def origin(folder: Path, file: str) -> dict[str, str]:
    """Which version of a file this is: a digest and, in a checkout, the commit with its date."""
    found = {"sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest()[:16]}
    if (folder / ".git").exists():
        git = ["git", "-C", str(folder), "log", "-1", "--format=%H %cs"]
        found["commit"], found["date"] = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split()
    return found


def run(
    work: Path, tests: str, plugins: tuple[str, ...], keyword: str | None, settings: dict[str, str]
) -> dict[str, dict[str, str]]:
    """
    Outcome and reason of each of the tests, a path in the folder `work` as pytest takes it.

    Raises:
        SystemExit: pytest did not come to its end; with the last lines that it said.
    """
    reports, log = work / "reports.jsonl", work / "pytest.log"
    reports.unlink(missing_ok=True)
    path = [str(HERE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "PYTHONPATH": os.pathsep.join(path),
        "PEER_REPORTS": str(reports),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        "--color=no",
        "-W",
        "ignore",
        "--rootdir",
        str(work),
    ]
    for plugin in ("no:cacheprovider", "_outcomes", *plugins):
        command += ["-p", plugin]
    command += [tests, *(["-k", keyword] if keyword else [])]
    environment = os.environ | own | settings
    with log.open("w", encoding="utf-8") as stream:
        ended = subprocess.run(
            command, cwd=work, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    said = log.read_text(encoding="utf-8")
    if ended.returncode not in (0, 1) or not reports.exists():
        sys.exit(f"{tests}: pytest ended with {ended.returncode}. Its last lines:\n{said[-3000:]}")
    if keyword:
        print(said[-6000:])
    return _outcomes.read(reports)


def entry(tests: dict[str, dict[str, str]]) -> dict:
    """What goes on record of one run. Every test is named, with its reason where it did not pass."""
    reasons: dict[str, list[str]] = {}
    for name, test in tests.items():
        if test["outcome"] in ("skipped", "xfailed"):
            reasons.setdefault(test["reason"], []).append(name)
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _record.commit(),
        **_outcomes.count(tests),
        "failures": {name: test["reason"] for name, test in tests.items() if test["outcome"] == "failed"},
        "skips": {reason: sorted(names) for reason, names in sorted(reasons.items())},
        "passes": sorted(name for name, test in tests.items() if test["outcome"] == "passed"),
    }


def tell(tests: dict[str, dict[str, str]]):
    print("  " + ", ".join(f"{number} {outcome}" for outcome, number in _outcomes.count(tests).items()))
    for name, test in tests.items():
        if test["outcome"] == "failed":
            print(f"  FAILED {name}: {test['reason']}", flush=True)


def close(file: Path, keyword: str | None):
    print("Some of the tests were run (-k): nothing is written." if keyword else f"written: {file}")
