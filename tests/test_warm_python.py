"""A fork of a warm Python is what `python` with the same arguments would be."""

import json
import os
import signal
import subprocess
import sys

import pytest

from ._warm import WarmPython

SHOW = "import json, os, sys; print(json.dumps([sys.argv, sys.path[0], os.getcwd(), dict(os.environ), __name__]))"


@pytest.fixture(scope="module")
def python():
    warm = WarmPython("fractions")
    yield warm
    warm.close()


@pytest.mark.parametrize("way", ["script", "-m", "-c"])
def test_arguments_folder_and_environment_are_those_of_a_new_python(python, way, tmp_path):
    (tmp_path / "shown.py").write_text(SHOW)
    first = {"script": [tmp_path / "shown.py"], "-m": ["-m", "shown"], "-c": ["-c", SHOW]}[way]
    arguments = [*map(str, first), "a", "b c"]
    environment = {"PATH": os.environ["PATH"], "X": "é", "PYTHONPATH": str(tmp_path)}
    options = {"cwd": tmp_path, "env": environment}
    ours = python.run(*arguments, **options)
    theirs = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)
    assert (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr) == (0, "")
    found, expected = json.loads(ours.stdout), json.loads(theirs.stdout)
    expected[3].pop("LC_CTYPE", None)
    assert found == expected


def test_what_was_imported_is_there_and_nothing_of_an_earlier_process(python):
    assert (
        python.run("-c", "import sys; sys.modules['left'] = 1; print('fractions' in sys.modules)").stdout == "True\n"
    )
    assert python.run("-c", "import sys; print('left' in sys.modules)").stdout == "False\n"


@pytest.mark.parametrize(
    ("program", "code"), [("raise SystemExit(3)", 3), ("1 / 0", 1), ("import os; os._exit(4)", 4)]
)
def test_the_exit_code_is_that_of_the_program(python, program, code):
    ended = python.run("-c", program)
    assert ended.returncode == code
    assert ("ZeroDivisionError" in ended.stderr) == (code == 1)


def test_a_killed_process_ends_by_the_signal_and_the_next_one_runs(python):
    process = python.start("-c", "import time; time.sleep(100)")
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(20) == process.poll() == -signal.SIGKILL
    process.kill()
    assert python.run("-c", "print(1)").stdout == "1\n"


def test_what_takes_too_long_is_ended(python):
    with pytest.raises(subprocess.TimeoutExpired):
        python.run("-c", "import time; time.sleep(100)", timeout=0.2)


def test_a_server_that_was_closed_has_ended():
    warm = WarmPython()
    warm.close()
    assert warm._process.returncode == 0
