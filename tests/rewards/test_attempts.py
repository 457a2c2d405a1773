"""No program gets a reward without a solution, reads or leaves what it should not, or hangs: in each kind of sandbox, whoever runs it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_hf.processes.interpreter import Interpreter
from mimo_hf.rewards.sandbox import SYSTEM_PYTHON

from . import _attempts
from .conftest import BACKENDS

ROOT = Path(__file__).parents[2]
NOBODY = 64000


@pytest.mark.slow  # a dozen programs that have to be ended by the clock
@pytest.mark.parametrize("kind", BACKENDS)
def test_no_attempt_succeeds(kind):
    assert _attempts.wrong(kind) == []


def test_there_are_more_than_fifty_kinds():
    lists = (_attempts.REACH, _attempts.LEAVE, _attempts.HANGS, _attempts.NOTHING)
    assert sum(map(len, lists)) > 90
    assert {where for *_, where in [*_attempts.REACH.values(), *_attempts.LEAVE.values()]} == {
        "bwrap",
        "rooms",
        "root",
        "all",
    }


@pytest.mark.slow  # all three kinds once more
@pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become an ordinary user; as one, the test above says the same"
)
def test_no_attempt_of_an_ordinary_user_succeeds(own_folder):
    """The package where all can read it, since a checkout may be root's alone."""
    python = sys.executable if Interpreter.at(sys.executable).is_open() else SYSTEM_PYTHON
    folder = Path(own_folder)
    folder.chmod(0o755)  # Python lists it
    home = folder / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    for name in ("processes", "rewards"):
        shutil.copytree(ROOT / "mimo_hf" / name, folder / "mimo_hf" / name)
    for path in (ROOT / "mimo_hf").glob("*.py"):
        shutil.copy(path, folder / "mimo_hf")
    for name in ("_attempts.py", "_hostile.py", "_honest.py"):
        shutil.copy(Path(__file__).parent / name, _made(folder / "attempts"))
    shutil.copy(importlib.util.find_spec("pyseccomp").origin, folder)
    kinds = [kind for kind in _attempts.KINDS if kind != "bwrap" or shutil.which("bwrap")]
    environment = {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"], "HOME": str(home), "KINDS": " ".join(kinds)}
    tried = subprocess.run(
        [python, "-m", "attempts._attempts"],
        user=NOBODY, group=NOBODY, extra_groups=[], cwd=home, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tried.returncode == 0, tried.stderr
    assert json.loads(tried.stdout) == {kind: [] for kind in kinds}


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
