"""What a sandbox is told and says before any program has run."""

import pickle
import subprocess
import sys

import pytest

from mimo_hf.processes.users import BLOCK, FIRST_UID
from mimo_hf.rewards import Limits, Sandbox

from ._hostile import LIMITS

ANSWER = "print(int(input()) + 1)"


def test_without_bubblewrap_auto_asks_for_a_word(monkeypatch, caplog):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("mimo_hf.rewards.notices._said", set())
    with (
        Sandbox(workers=1) as unsaid,
        pytest.raises(OSError, match=r'apt-get install bubblewrap.*`backend="subprocess"`'),
    ):
        unsaid.run(ANSWER, "7")
    with Sandbox("bwrap") as strict, pytest.raises(FileNotFoundError, match="bubblewrap"):
        strict.run(ANSWER, "7")
    for _ in range(2):  # it says so once
        with Sandbox("subprocess", workers=1, limits=LIMITS) as unsafe:
            assert unsafe.run(ANSWER, "7").stdout == "8\n"
            assert not unsafe.is_boundary()
    assert [record.getMessage().count("NO SECURITY BOUNDARY") for record in caplog.records] == [1]


def test_a_bubblewrap_that_fails_is_reported_with_its_own_words(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(fake))
    with (
        Sandbox("bwrap", workers=1) as strict,
        pytest.raises(OSError, match="No permissions to create a new namespace"),
    ):
        strict.run("pass")


def test_a_sandbox_pickles_without_its_processes(any_sandbox):
    any_sandbox.run("pass")
    with pickle.loads(pickle.dumps(any_sandbox)) as copy:
        assert copy.limits == LIMITS
        assert copy.run(ANSWER, "7").stdout == "8\n"


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "1", 1e7, True])
def test_limits_are_positive_numbers(value):
    with pytest.raises(ValueError, match="timeout_s"):
        Limits(timeout_s=value)


@pytest.mark.parametrize("name", ["memory_bytes", "output_bytes", "processes"])
def test_limits_of_things_that_are_counted_are_whole(name):
    with pytest.raises(ValueError, match=f"`{name}` of Limits must be a positive int up to .*, not 1000.0"):
        Limits(**{name: 1e3})
    with pytest.raises(ValueError, match=f"`{name}` of Limits must be a positive int up to"):
        Limits(**{name: 2**63})


@pytest.mark.parametrize(
    ("argument", "options"),
    [("backend", {"backend": "docker"}), ("workers", {"workers": 0}), ("workers", {"workers": "2"})],
)
def test_a_sandbox_names_the_argument_that_is_wrong(argument, options):
    with pytest.raises(ValueError, match=argument):
        Sandbox(**options)


@pytest.mark.parametrize("backend", ["auto", "subprocess"])
def test_a_missing_filter_is_said_with_its_own_remedy_alone(monkeypatch, backend):
    def missing():
        raise OSError("libseccomp is not there")

    monkeypatch.setattr("mimo_hf.rewards.sandbox.system_call_filter", missing)
    with Sandbox(backend) as opened, pytest.raises(OSError, match=r"^libseccomp is not there$"):
        opened.run("pass")


@pytest.mark.parametrize("python", ["", "/no/python", "/bin/true", "/bin/sh", "/usr"])
def test_what_is_no_python_is_said_in_a_line(python):
    with Sandbox(python=python) as opened, pytest.raises(OSError, match=f"^`python='{python}'` is no Python") as said:
        opened.run("pass")
    assert "bubblewrap" not in str(said.value)
    assert "import ctypes" not in str(said.value)


def test_a_python_that_finds_its_library_by_the_environment_alone_is_said_at_start(tmp_path, monkeypatch):
    needy = tmp_path / "python"
    needy.write_text(
        f'#!/bin/sh\n[ "$NEEDED" ] || {{ echo "no libpython" >&2; exit 127; }}\nexec {sys.executable} "$@"\n'
    )
    needy.chmod(0o755)
    monkeypatch.setenv("NEEDED", "1")
    with Sandbox(python=str(needy)) as opened, pytest.raises(OSError, match="is no Python that runs: no libpython"):
        opened.run("pass")


def test_a_python_that_does_not_run_is_refused():
    with Sandbox("subprocess", python="/no/such/python") as nowhere, pytest.raises(OSError, match="/no/such/python"):
        nowhere.run("pass")


CLAIM = """
import os
os.getuid, os.getpid = (lambda: 0), (lambda: 640)
from mimo_hf.processes.users import program_uid
print(program_uid(), program_uid(), flush=True)
input()
"""


def test_no_two_trainers_share_a_user_for_their_programs():
    """Also where their process ids are alike but for a multiple of the number of blocks."""
    command = [sys.executable, "-c", CLAIM]
    trainers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    users = [set(map(int, trainer.stdout.readline().split())) for trainer in trainers]
    assert [len(own) for own in users] == [2, 2, 2]
    assert len({(user - FIRST_UID) // BLOCK for own in users for user in own}) == 3
    for trainer in trainers:
        trainer.communicate("\n")
