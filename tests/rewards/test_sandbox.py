"""Programs that misbehave are contained, end in time, and leave nothing."""

import ast
import ctypes
import gc
import glob
import os
import pickle
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mimo_hf.processes import program_pool
from mimo_hf.processes.kill_trees import end_tree
from mimo_hf.processes.program_pool import GRACE_S, Result
from mimo_hf.processes.program_server import PR_SET_CHILD_SUBREAPER
from mimo_hf.processes.users import BLOCK, FIRST_UID
from mimo_hf.rewards import Limits, Sandbox

from ._attempts import PATIENT, open_sandbox
from ._hostile import DAEMON, GUARD, HOSTILE, KILLERS, LIMITS
from .conftest import BACKENDS

ROOT = Path(__file__).parents[2]
ANSWER = "print(int(input()) + 1)"


def stat(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root):
    parents = {}
    for entry in os.listdir("/proc"):
        try:
            if entry.isdecimal() and stat(entry)[0] not in "ZX":
                parents[int(entry)] = int(stat(entry)[1])
        except OSError:
            continue
    below, waiting = [], [root]
    while waiting:
        parent = waiting.pop()
        children = [pid for pid, own in parents.items() if own == parent]
        below += children
        waiting += children
    return sorted(below)


verdicts: dict[tuple[str, str], Result] = {}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_ends_in_time_without_a_right_answer_and_the_next_one_runs(sandbox, name):
    source, status = HOSTILE[name]
    limits = LIMITS if status in (None, "timeout") else PATIENT
    begin = time.monotonic()
    result = verdicts[sandbox.backend, name] = sandbox.run(source, "7\n", limits)
    # Beyond the limit: a new server may have to start, on a busy machine.
    assert time.monotonic() - begin < limits.timeout_s + GRACE_S + 2
    assert result.status != "infra"
    if status is not None:
        assert result.status == status
    assert result.stdout.strip() != "8"
    after = sandbox.run(ANSWER, "7\n", PATIENT)
    assert (after.status, after.stdout) == ("ok", "8\n")


# Only bubblewrap's files lie in memory: a disk has more room, and takes its time.
ON_DISK = ("many files", "deep folders")


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ON_DISK])
def test_both_backends_give_the_same_verdict(bwrap, unboxed, name):
    both = (bwrap, unboxed)
    found = [verdicts.get((opened.backend, name)) or opened.run(HOSTILE[name][0], "7\n") for opened in both]
    if len({result.status for result in found}) == 2 and "timeout" in {result.status for result in found}:
        # One was cut short by the clock of a busy machine, the other wasn't.
        found = [opened.run(HOSTILE[name][0], "7\n", PATIENT) for opened in both]
    assert (found[0].status, found[0].stdout) == (found[1].status, found[1].stdout)


@pytest.mark.parametrize("name", KILLERS)
def test_a_program_that_kills_reaches_nobody_in_bubblewrap(bwrap, name):
    bwrap.run("pass")
    before = tree(os.getpid())
    assert bwrap.run(GUARD + KILLERS[name]).status in ("timeout", "runtime_error")
    assert tree(os.getpid()) == before
    assert bwrap.run(ANSWER, "7", PATIENT).stdout == "8\n"


def test_a_five_megabyte_source_is_no_trouble(sandbox):
    assert sandbox.run("x = 1\n" * 800_000 + "print(9)").stdout in ("", "9\n")
    assert sandbox.run(ANSWER, "7").stdout == "8\n"


def test_a_daemon_does_not_outlive_its_program_nor_hold_it_up(sandbox):
    sandbox.run("pass")
    before = tree(os.getpid())
    result = sandbox.run(DAEMON, "7\n", PATIENT)
    assert (result.status, result.stdout) == ("ok", "8\n")
    assert result.duration_s < 10
    assert tree(os.getpid()) == before


def test_undecodable_output_is_replaced(sandbox):
    result = sandbox.run("import sys; sys.stdout.buffer.write(b'\\xff8\\n')")
    assert result.stdout == "\ufffd8\n"


def test_output_is_kept_up_to_its_limit(sandbox):
    within = sandbox.run(f"print('x' * {LIMITS.output_bytes - 1})")
    assert (within.status, len(within.stdout)) == ("ok", LIMITS.output_bytes)
    beyond = sandbox.run(f"print('x' * {LIMITS.output_bytes})")
    assert (beyond.status, len(beyond.stdout)) == ("output_limit", LIMITS.output_bytes)


def test_what_a_program_says_besides_its_answer_is_not_limited_and_its_last_words_are_kept(sandbox):
    source = "import sys\nfor n in range(20_000): print('line', n, file=sys.stderr)\n"
    result = sandbox.run(source + ANSWER, "7", PATIENT)
    assert (result.status, result.stdout) == ("ok", "8\n")
    assert result.stderr.endswith("line 19999\n")
    assert len(result.stderr) == 2000
    assert sandbox.run("import os\nwhile True: os.write(2, bytes(1 << 16))").status == "timeout"


def test_a_program_sees_an_empty_environment_and_an_empty_folder(sandbox, monkeypatch):
    monkeypatch.setenv("MIMO_TEST_TOKEN", "secret-token")
    sandbox.run("open('left', 'w').write('behind')")
    seen = sandbox.run("import os; print(dict(os.environ), os.listdir('.'))").stdout
    assert "secret" not in seen
    assert seen.endswith("[]\n")
    assert set(ast.literal_eval(seen.rpartition("[")[0].strip())) <= {"LC_CTYPE", "PWD"}


@pytest.mark.needs("bwrap")
def test_no_environment_of_any_process_shows_the_parents(monkeypatch):
    """bwrap must itself start with an empty one: /proc/1/environ shows it, whatever is cleared for the child."""
    monkeypatch.setenv("MIMO_TEST_TOKEN", "secret-token")
    with open_sandbox("bwrap") as fresh:
        seen = fresh.run(
            "import glob\nfor path in glob.glob('/proc/*/environ'):\n    try: print(path, open(path).read())\n    except OSError: pass"
        )
        assert "/proc/" in seen.stdout
        assert "secret" not in seen.stdout
        server = next(
            pid for pid in tree(os.getpid()) if b"program_server" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        assert b"secret" not in Path(f"/proc/{server}/environ").read_bytes()


# The marker's halves never meet in the scan itself.
SCAN = """
import re
pattern = re.compile({first!r}.encode() + b"(?={second})")
hits = 0
with open("/proc/self/mem", "rb", 0) as memory:
    for line in open("/proc/self/maps").readlines():
        span, permissions, *_ = line.split()
        if not permissions.startswith("rw"):
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        try:
            memory.seek(start)
            hits += len(pattern.findall(memory.read(end - start)))
        except (OSError, ValueError):
            continue
print(hits)
"""


def test_a_program_finds_nothing_of_the_one_before_in_its_memory(bwrap):
    """Servers never hold a program or its input: the fork reads them."""
    first, second = secrets.token_hex(8), secrets.token_hex(8)
    scan = SCAN.format(first=first, second=second)
    limits = PATIENT
    assert bwrap.run(f"text = '{first}{second}' * 1000\nprint(text)", first + second, limits).status == "ok"
    assert bwrap.run(scan, "", limits).stdout == "0\n"
    holding = bwrap.run(f"import sys\nheld = sys.stdin.read()\n{scan}", first + second, limits)
    assert int(holding.stdout) > 0  # the scan does find what is there


def test_no_host_file_and_no_network_is_within_reach(bwrap, tmp_path):
    (tmp_path / "gold.txt").write_text("the answer")
    listener = "import socket\ntry: s = socket.socket(); s.settimeout(1); s.connect(({host!r}, 80)); print('connected')\nexcept OSError: print('no')"
    for path in (tmp_path / "gold.txt", "/etc/passwd", "/proc/1/mem", f"/proc/{os.getpid()}/environ", __file__):
        seen = bwrap.run(f"try: print(open({str(path)!r}).read())\nexcept OSError: print('no')")
        assert seen.stdout == "no\n", path
    for host in ("127.0.0.1", "169.254.169.254", "1.1.1.1"):
        assert bwrap.run(listener.format(host=host)).stdout == "no\n"
    assert (
        bwrap.run(
            "import os; print(sorted(p for p in os.listdir('/proc') if p.isdecimal()), os.getuid())"
        ).stdout.count("'")
        == 4
    )


def test_nothing_but_the_scratch_folder_is_writable_and_that_is_small(bwrap):
    seen = bwrap.run(
        "import os\nfor top, folders, files in os.walk('/'):\n"
        "    folders[:] = [f for f in folders if top + f not in ('/proc', '/usr', '/tmp')]\n"
        "    if top == '/dev/shm' and os.path.samefile(top, '/tmp'): continue\n"
        "    try: open(os.path.join(top, 'x'), 'w'); print(top)\n    except OSError: pass",
        limits=PATIENT,
    )
    assert (seen.status, seen.stdout) == ("ok", "")
    full = bwrap.run(
        "n = 0\ntry:\n    while True: open(f'/tmp/{n}', 'wb').write(bytes(60000)); n += 1\nexcept OSError: print(n)",
        limits=PATIENT,
    )
    assert 100 < int(full.stdout) < 300  # 16 MiB


def test_the_warm_server_cannot_be_ended_from_inside(bwrap):
    pids = [bwrap.run(ANSWER, "1").status and os_servers() for _ in range(2)]
    bwrap.run(GUARD + "for n in range(1, 65):\n    try: os.kill(1, n)\n    except OSError: pass")
    assert pids[0] == pids[1] == os_servers()


def os_servers():
    return sorted(pid for pid in tree(os.getpid()) if b"bwrap" in Path(f"/proc/{pid}/cmdline").read_bytes())


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


@contextmanager
def subreaper():
    """Orphans of this process's children become its own, so that `tree` sees them."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0)


def until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def kill_servers():
    for pid in tree(os.getpid()):
        if alive(pid) and b"program_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def alive(pid):
    try:
        return stat(pid)[0] not in "ZX"
    except OSError:
        return False


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


def test_the_largest_limits_are_limits_that_a_kernel_takes(sandbox):
    most = Limits(timeout_s=1e6, memory_bytes=1 << 60, output_bytes=1 << 60, processes=1 << 60)
    assert sandbox.run(ANSWER, "7", most).stdout == "8\n"


def test_a_program_that_survives_a_lack_of_memory_is_right(sandbox):
    source = "import traceback\ntry: x = bytearray(10**11)\nexcept MemoryError: traceback.print_exc()\n"
    result = sandbox.run(source + ANSWER, "7")
    assert (result.status, result.stdout) == ("ok", "8\n")
    assert result.stderr.endswith("MemoryError\n")


def test_cpu_time_ends_with_the_signal_that_says_so(sandbox):
    """At the hard limit comes SIGKILL, as for a lack of memory."""
    soft, hard = map(
        int, sandbox.run("import resource; print(*resource.getrlimit(resource.RLIMIT_CPU))").stdout.split()
    )
    assert LIMITS.timeout_s < soft < hard


def folders():
    return set(glob.glob(os.path.join(tempfile.gettempdir(), "mimo-program-*")))


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


@pytest.mark.parametrize("status", [0, 1])
def test_a_program_cannot_pretend_that_it_never_began(sandbox, status):
    source = (
        f"import os\nfor n in range(3, 64):\n    try: os.write(n, b'0')\n    except OSError: pass\nos._exit({status})"
    )
    assert sandbox.run(source).status == ("runtime_error" if status else "ok")


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
