"""
A pytest plugin that writes every report as a line of JSON to the file that `PEER_REPORTS` names, and what reads these lines:
one outcome a test, in words that are the same from one run to the next.
"""

import json
import os
import re
from pathlib import Path

# The worst part of a test is its outcome: of its subtests, of setup, call and teardown.
OUTCOMES = ("failed", "skipped", "xfailed", "passed")


def pytest_runtest_logreport(report):
    if report.when != "call" and report.outcome == "passed":
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    if isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
    else:
        reason = crash.message if crash else str(report.longrepr or "")
    expected = report.skipped and hasattr(report, "wasxfail")
    line = {
        "test": report.nodeid,
        "outcome": "xfailed" if expected else report.outcome,
        "reason": report.wasxfail if expected else reason,
    }
    with open(os.environ["PEER_REPORTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(file: Path) -> dict[str, dict[str, str]]:
    """Outcome and reason of each test, without the file's name, in the order of the run."""
    tests: dict[str, dict[str, str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        part = json.loads(line)
        name = part["test"].partition("::")[2]
        so_far = tests.get(name)
        if so_far is None or OUTCOMES.index(part["outcome"]) < OUTCOMES.index(so_far["outcome"]):
            tests[name] = {"outcome": part["outcome"], "reason": short(part["reason"])}
    return tests


def short(reason: str) -> str:
    """One line, without folders and addresses."""
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    # Of an error in a process that a test has started, the last line says what it is, the first only where.
    line = lines[-1] if "ProcessRaisedException" in lines[0] else lines[0]
    line = re.sub(r"^Skipped: ", "", line)
    line = re.sub(r"0x[0-9a-f]+", "0x...", line)
    return re.sub(r"(?<![\w/.])(/[\w.+-]+)+/", "", line)[:300]


def count(tests: dict[str, dict[str, str]]) -> dict[str, int]:
    found = [test["outcome"] for test in tests.values()]
    return {outcome: found.count(outcome) for outcome in ("passed", "failed", "skipped", "xfailed")}
