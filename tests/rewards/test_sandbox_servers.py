"""Warm servers: how many, what becomes of programs whose server is lost, interrupted or never began, and of forks."""

import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mimo_hf.processes import program_pool
from mimo_hf.processes.kill_trees import end_tree
from mimo_hf.rewards import Sandbox

from ._attempts import PATIENT, open_sandbox
from ._hostile import DAEMON, LIMITS
from ._processes import alive, folders, kill_servers, subreaper, tree, until
from .conftest import BACKENDS

ROOT = Path(__file__).parents[2]
ANSWER = "print(int(input()) + 1)"


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_hundred_runs_leave_no_process_no_folder_and_no_open_file(backend, own_folder):
    def census():
        gc.collect()  # what earlier tests dropped must not go in between
        return len(os.listdir("/proc/self/fd")), set(tree(os.getpid())), folders()

    with open_sandbox(backend) as warm:
        warm.run("pass")
    before = census()
    with open_sandbox(backend, workers=2) as opened:
        for index in range(200):
            opened.run("open('f', 'w').write('x')" if index % 20 else DAEMON, "7")
    files, processes, left = census()
    assert files <= before[0]
    assert processes - before[1] == set()
    assert left - before[2] == set()


def test_no_more_programs_run_at_once_than_there_are_workers(any_sandbox):
    source = "import time; print(time.monotonic()); time.sleep(0.15); print(time.monotonic())"
    limits = PATIENT
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: any_sandbox.run(source, "", limits), range(8)))
    spans = [tuple(map(float, result.stdout.split())) for result in results]
    overlaps = [sum(begin <= point < end for begin, end in spans) for point, _ in spans]
    assert max(overlaps) == 2


def test_a_slow_program_does_not_hold_up_the_other_worker(any_sandbox):
    any_sandbox.run("pass")
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(any_sandbox.run, "import time; time.sleep(100)", "", replace(LIMITS, timeout_s=3))
        quick = [any_sandbox.run(ANSWER, str(n)).stdout for n in range(5)]
        assert not slow.done()
        assert slow.result().status == "timeout"
    assert quick == [f"{n + 1}\n" for n in range(5)]


def test_the_servers_of_a_killed_process_end_with_it(tmp_path, any_sandbox):
    script = textwrap.dedent(f"""
        import sys, time, warnings
        warnings.simplefilter("ignore")
        from mimo_hf.rewards import Sandbox
        if __name__ == "__main__":
            sandbox = Sandbox({any_sandbox.backend!r}, workers=1)
            sandbox.run("pass")
            print("ready", flush=True)
            sandbox.run("import os, time\\nos.setsid if os.fork() else 0\\ntime.sleep(1e6) # {tmp_path.name}")
    """)
    path = tmp_path / "owner.py"
    path.write_text(script)
    owner = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    time.sleep(0.5)
    below = tree(owner.pid)
    assert below
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until(lambda: not any(map(alive, below)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_that_outlive_the_main_one_get_infra_and_do_not_hold_it_up(backend, tmp_path, own_folder):
    """Their program has children that left it, and those end too."""
    script = textwrap.dedent(f"""
        import os, tempfile, threading, time, warnings
        warnings.simplefilter("ignore")
        from mimo_hf.rewards import Limits
        from tests.rewards._attempts import open_sandbox
        tempfile.tempdir = {own_folder!r}
        sandbox = open_sandbox({backend!r}, limits=Limits(timeout_s=100))
        sandbox.run("pass")
        children = "import os, time\\nif os.fork() == 0: os.setsid(); os.fork()\\ntime.sleep(1e6)"
        def program(): os.write(1, sandbox.run(children).status.encode() + b" ")
        for _ in range(2):
            threading.Thread(target=program).start()
        time.sleep(0.5)
    """)
    path = tmp_path / "main.py"
    path.write_text(script)
    with subreaper():
        before = tree(os.getpid())
        ended = subprocess.run(
            [sys.executable, str(path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert ended.stdout == "infra infra "
        assert "Traceback" not in ended.stderr
        until(lambda: tree(os.getpid()) == before)
    until(lambda: os.listdir(own_folder) == [])


def test_a_lost_server_is_replaced_and_the_program_runs_again(any_sandbox):
    any_sandbox.run(ANSWER, "1")
    kill_servers()
    result = any_sandbox.run(ANSWER, "7", PATIENT)
    assert (result.status, result.stdout) == ("ok", "8\n")


def test_a_server_that_cannot_start_again_makes_the_row_infra_not_wrong(any_sandbox, monkeypatch):
    with Sandbox(any_sandbox.backend, workers=1, limits=LIMITS) as broken:
        assert broken.run("pass").status == "ok"
        kill_servers()
        monkeypatch.setattr(broken._pool, "command", lambda channel: (["/no/such/program"], None))
        result = broken.run(ANSWER, "7")
    assert result.status == "infra"
    assert "/no/such/program" in result.stderr


def test_an_interrupt_while_a_program_runs_leaves_no_answer_for_the_next_one(any_sandbox, monkeypatch):
    with Sandbox(any_sandbox.backend, workers=1, limits=LIMITS) as opened:
        opened.run("pass")

        def interrupted(*arguments):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("mimo_hf.processes.program_pool._status", interrupted)
            with pytest.raises(KeyboardInterrupt):
                opened.run("print('old')")
        assert opened.run(ANSWER, "7", PATIENT).stdout == "8\n"


@pytest.mark.parametrize("place", ["starting", "running"])
def test_an_interrupt_of_the_first_program_leaves_no_server(own_folder, monkeypatch, place):
    interrupts = iter([KeyboardInterrupt])
    pool, started = open_sandbox("plain"), []
    first = program_pool._Server.__init__

    def noted(server, *arguments):
        first(server, *arguments)
        started.append(server)

    at, method = {"starting": (Future, "result"), "running": (program_pool._Server, "_hear")}[place]
    original = getattr(at, method)

    def interrupted(*arguments):
        for interrupt in interrupts:
            raise interrupt
        return original(*arguments)

    monkeypatch.setattr(program_pool._Server, "__init__", noted)
    with pool as opened:
        opened._ready()
        opened.close()
        started.clear()
        with monkeypatch.context() as patch:
            patch.setattr(at, method, interrupted)
            with pytest.raises(KeyboardInterrupt):
                opened.run("print('old')")
        until(lambda: started and started[0].process.poll() is not None)
        assert started[0].channel.fileno() == -1
        assert opened.run(ANSWER, "7", PATIENT).stdout == "8\n"


def test_a_program_that_never_stops_talking_does_not_outtalk_a_silent_server():
    """The server may have been stopped: then only its owner looks at the time. The device always has more to say."""
    channel, silent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = SimpleNamespace(channel=channel)
    with channel, silent, open("/dev/zero", "rb") as talking, ThreadPoolExecutor(1) as threads:
        heard = threads.submit(program_pool._Server._hear, server, talking.fileno(), 0.2)
        try:
            with pytest.raises(TimeoutError):
                heard.result(PATIENT.timeout_s)
            assert heard.done()  # the error is its own
        finally:
            silent.send(b"enough")


def test_a_server_that_does_not_answer_ends_with_all_it_has_started():
    """Stopped, it can adopt nobody; what its program has started is no child of it."""
    source = (
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "import time; time.sleep(1000)"
    )
    program = subprocess.Popen([sys.executable, "-c", source], start_new_session=True)
    until(lambda: tree(program.pid))
    below = tree(program.pid)
    os.kill(program.pid, signal.SIGSTOP)
    end_tree(program.pid)
    program.wait()
    until(lambda: not any(alive(pid) for pid in below))


def test_a_program_that_never_began_is_not_wrong(own_folder):
    """Somebody may clear the folder of temporary files."""
    with open_sandbox("plain") as opened:
        before = folders()
        opened.run("pass")
        (own,) = folders() - before
        os.rmdir(own)
        assert opened.run(ANSWER, "7").stdout == "8\n"  # on a new server


def test_where_no_program_can_begin_the_row_is_infra(monkeypatch):
    with open_sandbox("subprocess") as opened:
        opened.run("pass")
        monkeypatch.setattr("mimo_hf.processes.program_pool._rlimits", lambda limits: {"NO_SUCH_LIMIT": 1})
        result = opened.run(ANSWER, "7")
    assert result.status == "infra"
    assert "RLIMIT_NO_SUCH_LIMIT" in result.stderr


def test_a_full_disk_is_infra(monkeypatch, tmp_path):
    with open_sandbox("subprocess") as opened:
        opened.run("pass")
        kill_servers()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        result = opened.run(ANSWER, "7")
    assert result.status == "infra"
    assert "nowhere" in result.stderr


def test_a_machine_without_descriptors_is_infra(any_sandbox, monkeypatch):
    with Sandbox(any_sandbox.backend, workers=1, limits=LIMITS) as opened:
        opened.run("pass")

        def exhausted(name):
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(os, "memfd_create", exhausted)
            result = opened.run(ANSWER, "7")
        assert (result.status, "Too many open files" in result.stderr) == ("infra", True)
        assert opened.run(ANSWER, "7").stdout == "8\n"


def test_a_server_that_was_killed_leaves_no_folder(own_folder):
    before = folders()
    with open_sandbox("plain") as opened:
        opened.run("pass")
        kill_servers()
        assert opened.run(ANSWER, "7").stdout == "8\n"
    assert folders() - before == set()


def test_a_fork_that_closes_its_copy_takes_nothing_from_the_original(own_folder):
    with open_sandbox("plain") as opened:
        opened.run("pass")
        pid = os.fork()
        if pid == 0:
            try:
                opened.close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        before = folders()
        result = opened.run(ANSWER, "7")
        assert (result.status, result.stdout) == ("ok", "8\n")
        assert folders() == before


def test_a_fork_runs_programs_of_its_own(any_sandbox):
    any_sandbox.run("pass")
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writes, any_sandbox.run(ANSWER, "7").stdout.encode())
            any_sandbox.close()
        finally:
            os._exit(0)
    os.close(writes)
    with open(reads) as answer:
        assert answer.read() == "8\n"
    os.waitpid(pid, 0)
    assert any_sandbox.run(ANSWER, "8").stdout == "9\n"


def test_to_close_while_programs_run_and_wait_stops_none_of_them(any_sandbox):
    limits = PATIENT
    with Sandbox(any_sandbox.backend, workers=1, limits=limits) as opened, ThreadPoolExecutor(4) as threads:
        jobs = [
            (opened.run, "import time; time.sleep(0.5); print(8)"),
            (opened.close,),
            (opened.run, ANSWER, "7"),
            (opened.close,),
        ]
        begun = []
        for function, *arguments in jobs:
            begun.append(threads.submit(function, *arguments))
            time.sleep(0.1)  # each waits for the one before
        assert [begun[index].result(60).stdout for index in (0, 2)] == ["8\n", "8\n"]
