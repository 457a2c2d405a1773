"""Processes of the live scheduler: commands and what they see, the scheduler of a script, and its end by Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from mimo_hf.scheduler import Action, ActionTimeout, Command
from mimo_hf.scheduler.executors.guard import tagged
from mimo_hf.scheduler.executors.local import SCRATCH_BYTES, LocalExecutor

from .conftest import drive


def test_a_command_runs_in_an_empty_folder_with_few_variables_and_its_limits(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")

    async def work(scheduler):
        where = await scheduler.run(Action("sh", Command(("sh", "-c", "pwd; ls -A; env; touch left")), {"cpu": 2}))
        again = await scheduler.run(Action("sh", Command(("ls", "-A")), {"cpu": 4}))
        fed = await scheduler.run(Action("sh", Command(("cat",), stdin="hello"), {"cpu": 1}))
        small = Command((sys.executable, "-c", "bytearray(2**30)"), limits={"AS": 2**28})
        limited = await scheduler.run(Action("sh", small, {"cpu": 1}))
        with pytest.raises(subprocess.CalledProcessError):
            await scheduler.run(Action("sh", Command(("false",), check=True), {"cpu": 1}))
        with pytest.raises(FileNotFoundError):
            await scheduler.run(Action("sh", Command(("no-such-program",)), {"cpu": 1}))
        return where.stdout, again.stdout, fed.stdout, limited

    where, again, fed, limited = drive(work)
    folder, *variables = where.splitlines()
    assert "SECRET_TOKEN" not in where
    assert "OMP_NUM_THREADS=2" in variables
    assert not os.path.exists(folder)
    assert again == ""
    assert fed == "hello"
    assert limited.returncode != 0
    assert "MemoryError" in limited.stderr


@pytest.mark.needs("bwrap")
def test_commands_in_bubblewrap_see_no_files_of_the_user(tmp_path):
    (tmp_path / "secret").write_text("x")

    async def work(scheduler):
        return await scheduler.run(
            Action("sh", Command(("sh", "-c", f"cat {tmp_path}/secret; echo $?; ls -A /home")), {"cpu": 1})
        )

    seen = drive(work, sandbox="bwrap")
    assert "No such file" in seen.stderr
    assert seen.stdout.startswith("1")


@pytest.mark.needs("bwrap")
def test_processes_of_a_command_in_bubblewrap_may_share_locks_in_bounded_memory():
    source = "import multiprocessing, os\nwith multiprocessing.Lock(): s = os.statvfs('/dev/shm')\nprint(s.f_blocks * s.f_frsize)"

    async def work(scheduler):
        return await scheduler.run(Action("python", Command(("/usr/bin/python3", "-c", source)), {"cpu": 1}))

    seen = drive(work, sandbox="bwrap")
    assert (seen.stdout, seen.stderr) == (f"{SCRATCH_BYTES}\n", "")


@pytest.mark.needs("bwrap")
def test_commands_in_bubblewrap_have_no_power_over_the_machine(tmp_path):
    """Also where root runs the scheduler. Files are opened for writing, and nothing is written."""
    opens = (
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /usr/made; do (: >> $f) && echo opened $f; done"
    )
    script = f"id -u; grep Cap /proc/self/status; {opens}; echo kept > own; cat own; df -P /tmp | tail -1"

    async def work(scheduler):
        return await scheduler.run(Action("sh", Command(("sh", "-c", script)), {"cpu": 1}))

    user, *lines = drive(work, sandbox="bwrap").stdout.splitlines()
    assert int(user) not in (0, os.getuid())
    assert [line.split()[1] for line in lines[:5]] == ["0" * 16] * 5
    assert lines[5] == "kept"
    assert int(lines[6].split()[1]) <= 1 << 20  # KiB of /tmp
    assert len(lines) == 7


def test_a_bubblewrap_that_can_not_work_here_is_told_of_at_the_start(tmp_path, monkeypatch):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(OSError, match=r"No permissions to create new namespace.*allow user namespaces"):
        LocalExecutor(sandbox="bwrap")


def test_a_sandbox_that_is_unknown_or_not_here_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="bwrap, docker:IMAGE"):
        LocalExecutor(sandbox="chroot")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="needs the program 'bwrap', which is not installed"):
        LocalExecutor(sandbox="bwrap")


DOCKER = """#!{python}
import os, sys
with open({log!r}, "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "run":
    os.execvp(sys.argv[sys.argv.index("img") + 1], sys.argv[sys.argv.index("img") + 1 :])
"""


def test_a_container_gets_its_cores_variables_and_limits_and_is_removed_with_its_action(tmp_path, monkeypatch):
    """With a stand-in for docker that notes what it is told and runs the command itself."""
    log = tmp_path / "log"
    (tmp_path / "docker").write_text(DOCKER.format(python=sys.executable, log=str(log)))
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    async def work(scheduler):
        limits = {"AS": 2**33, "NOFILE": 100}
        script = Command(("sh", "-c", "echo $A $MIMO_ACTION_CORES"), env={"A": "x"}, limits=limits)
        result = await scheduler.run(Action("sh", script, {"cpu": 2}))
        with pytest.raises(ActionTimeout):
            await scheduler.run(Action("sh", Command(("sleep", "60")), {"cpu": 4}, timeout_s=0.3))
        return result.stdout

    assert drive(work, sandbox="docker:img") == "x 2\n"
    run, late, *removed = log.read_text().splitlines()
    assert run.startswith("run --rm -i --init --name=mimo-")
    for words in (
        "--network=none",
        "--cpus=2",
        "--env MIMO_ACTION_CORES",
        "--env A",
        f"--memory={2**33}",
        "--ulimit=nofile=100",
    ):
        assert words in run
    name = re.search(r"--name=(\S+)", late).group(1)
    assert f"rm -f {name}" in removed


def test_ctrl_c_leaves_no_process(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import asyncio, signal\nfrom mimo_hf.scheduler import Action, ActionScheduler, Command, SchedulerConfig\n"
        # Children of a background job of a shell begin with Ctrl-C ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "async def main():\n"
        "    async with ActionScheduler(SchedulerConfig(cpu_cores=2, cpu_enforce='count', kill_grace_s=0.2)) as s:\n"
        "        h = await s.submit(Action('x', Command(('sh', '-c', 'setsid sleep 60 & sleep 60')), {'cpu': 1}))\n"
        "        print(s.executor._owner, flush=True)\n"
        "        await h\n"
        "asyncio.run(main())\n"
    )
    job = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    owner = job.stdout.readline().strip()
    time.sleep(0.3)
    assert len(tagged(f"{owner}-")) >= 3
    job.send_signal(signal.SIGINT)
    assert job.wait(20) != 0
    job.stdout.close()
    assert tagged(f"{owner}-") == []


def test_functions_of_a_script_run_in_workers(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "from mimo_hf.scheduler import Action, ActionScheduler, Command, SchedulerConfig\n"
        "def double(x):\n    return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    from functools import partial\n"
        "    with ActionScheduler(SchedulerConfig(cpu_cores=1, cpu_enforce='count')) as s:\n"
        "        print(s.run_sync(Action('x', partial(double, 21), {'cpu': 1})))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "42\n"
