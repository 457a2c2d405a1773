"""What a command may write, and how many processes it may start: bounds that hold, say so, and refuse where they can't."""

import os
import pickle
import resource
import shutil
import subprocess
import sys

import pytest

from mimo_hf.scheduler import Action, Command
from mimo_hf.scheduler.core.types import PROCESSES
from mimo_hf.scheduler.executors import output
from mimo_hf.scheduler.executors.limits import limits_processes, process_words
from mimo_hf.scheduler.executors.local import SANDBOXES, LocalExecutor
from mimo_hf.scheduler.executors.output import Kept
from mimo_hf.scheduler.executors.worker import run_command

from .conftest import drive

MIB = 1 << 20
LONG = "import sys; sys.stdout.write('a' * 1000); sys.stdout.write('-' * {n}); sys.stdout.write('z' * 1000)"


SOMEBODY = 60123  # an ordinary user


def run(*argv, prefix=(), **options):
    return run_command(Command(argv, **options), prefix, 1)


@pytest.mark.parametrize("parts", [[b"abcdef"], [b"ab", b"cde", b"", b"f"], [bytes([c]) for c in b"abcdef"]])
@pytest.mark.parametrize("limit", range(9))
def test_the_beginning_and_the_end_are_kept_and_the_rest_is_counted(parts, limit):
    kept = Kept(limit)
    for part in parts:
        kept.add(part)
    first, last = (limit + 1) // 2, limit // 2
    text = kept.text()
    if limit >= 6:
        assert (text, kept.dropped) == ("abcdef", 0)
    else:
        assert kept.dropped == 6 - limit
        assert text.startswith("abcdef"[:first] + "\n[")
        assert text.endswith("]\n" + "abcdef"[6 - last :])
        assert f"{6 - limit} bytes left out; `output_bytes` of the Command is {limit}" in text


def test_what_is_kept_of_a_stream_stays_small_while_it_runs():
    kept = Kept(MIB)
    for _ in range(200):
        kept.add(bytes(output.CHUNK))
        assert kept.held <= 1.5 * MIB + output.CHUNK
    assert kept.dropped == 200 * output.CHUNK - MIB or kept.held > MIB
    kept.text()
    assert kept.dropped == 200 * output.CHUNK - MIB


def test_a_long_output_is_cut_with_a_mark_and_the_command_goes_on():
    async def work(scheduler):
        script = LONG.format(n=3 * MIB) + "; sys.stderr.write('done'); sys.exit(3)"
        command = Command((sys.executable, "-c", script), output_bytes=4000)
        return await scheduler.run(Action("long", command, {"cpu": 1}))

    result = drive(work)
    assert (result.returncode, result.stderr) == (3, "done")
    assert result.truncated
    assert (result.stdout_dropped, result.stderr_dropped) == (3 * MIB + 2000 - 4000, 0)
    assert result.stdout.startswith("a" * 1000 + "-" * 1000 + "\n[")
    assert result.stdout.endswith("]\n" + "-" * 1000 + "z" * 1000)
    assert len(result.stdout) < 4200


def test_an_endless_writer_takes_no_memory_and_ends_at_its_time_limit():
    """The worker's memory is looked at by the worker: its peak before and after ten thousand times what is kept."""
    script = "import os\nline = b'x' * 65536\nfor _ in range(1600): os.write(1, line)\n"  # 100 MiB
    code = (
        "import resource, sys\nfrom mimo_hf.scheduler.executors.worker import run_command\n"
        "from mimo_hf.scheduler.core.types import Command\n"
        "run_command(Command(('true',)), (), 1)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"before = peak(); result = run_command(Command((sys.executable, '-c', {script!r}), output_bytes=10000), (), 1)\n"
        "print(result.stdout_dropped, peak() - before)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd())
    dropped, grown_kib = map(int, said.stdout.split())
    assert dropped == 1600 * 65536 - 10000
    assert grown_kib < 4096


def test_the_default_is_enough_for_ordinary_logs_and_says_nothing_was_left_out():
    result = run(sys.executable, "-c", LONG.format(n=2 * MIB))
    assert result.stdout == "a" * 1000 + "-" * 2 * MIB + "z" * 1000
    assert not result.truncated
    assert (result.stdout_dropped, result.stderr_dropped) == (0, 0)


def test_both_streams_are_read_while_it_runs_so_that_none_blocks():
    script = "import os\nfor _ in range(64): os.write(2, b'e' * 65536); os.write(1, b'o' * 65536)"
    result = run(sys.executable, "-c", script)
    assert (result.stdout, result.stderr) == ("o" * 64 * 65536, "e" * 64 * 65536)


@pytest.mark.parametrize("pidfd", [True, False])
def test_what_it_leaves_in_the_background_does_not_hold_up_the_result(monkeypatch, pidfd):
    """Its last words are there, and the process that still holds the pipe is not waited for."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    result = run("sh", "-c", "sleep 30 & echo $!; printf last; exit 4")
    pid, last = result.stdout.split()
    os.kill(int(pid), 9)
    assert (result.returncode, last) == (4, "last")


def test_what_stands_in_the_pipes_when_it_ends_is_read(monkeypatch):
    monkeypatch.setattr(output, "CHUNK", 10)
    words = ("sh", "-c", "echo 0123456789abcdef; echo 0123456789ABCDEF >&2")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        kept = output.collect(process, 1000)
    assert [stream.text() for stream in kept] == ["0123456789abcdef\n", "0123456789ABCDEF\n"]


def test_who_writes_on_in_the_background_is_not_listened_to_for_ever():
    result = run("sh", "-c", "yes & echo $! >&2", output_bytes=1000)
    os.kill(int(result.stderr), 9)
    assert result.returncode == 0


def test_a_command_that_closes_its_output_is_waited_for():
    assert run("sh", "-c", "exec >&- 2>&-; sleep 0.2; exit 5").returncode == 5


def test_results_that_failed_carry_the_cut_output():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("sh", "-c", "echo 0123456789; exit 2", check=True, output_bytes=4)
    assert "7 bytes left out" in caught.value.stdout


def test_a_result_of_an_earlier_shape_can_still_be_made_and_pickled():
    result = run("echo", "x")
    assert pickle.loads(pickle.dumps(result)) == type(result)(0, "x\n", "")


def test_a_file_that_grows_too_large_ends_the_command_and_output_is_no_file(tmp_path):
    script = "echo 12345; (exec 2>&-; head -c 5000 /dev/zero > big); wc -c < big"
    result = run("sh", "-c", script, cwd=str(tmp_path), limits={"FSIZE": 3000})
    assert result.stdout.split() == ["12345", "3000"]
    long = run(sys.executable, "-c", LONG.format(n=5000), limits={"FSIZE": 100})
    assert len(long.stdout) == 7000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_bytes": -1}, "`output_bytes` of Command must be a whole number from 0 to .*; got -1"),
        ({"output_bytes": 10**30}, "`output_bytes` of Command must be a whole number"),
        ({"output_bytes": 1.5}, "`output_bytes` of Command must be a whole number"),
        ({"output_bytes": True}, "`output_bytes` of Command must be a whole number"),
        ({"limits": {"CPU": -1}}, "`limits` of Command: CPU must be a whole number from 0 to .*; got -1"),
        ({"limits": {"AS": 10**30}}, "`limits` of Command: AS must be"),
        ({"limits": {"AS": float("nan")}}, "`limits` of Command: AS must be"),
        ({"limits": {"AS": "1G"}}, "`limits` of Command: AS must be"),
        ({"limits": {"NPROC": 0}}, "`limits` of Command: NPROC must be a whole number from 1 to"),
        ({"env": {"A": 1}}, "`env` of Command must be texts by name"),
        ({"env": {"A=B": "x"}}, "`env` of Command must be texts by name"),
        ({"env": {"A": "x\0y"}}, "`env` of Command must be texts by name"),
    ],
)
def test_a_bound_that_is_none_is_refused_when_the_command_is_made(options, words):
    with pytest.raises(ValueError, match=words):
        Command(("true",), **options)


def test_words_with_a_zero_byte_are_no_command():
    with pytest.raises(ValueError, match="`argv` of Command"):
        Command(("echo", "a\0b"))


# Processes


def test_containers_count_processes_themselves():
    """The last `--pids-limit` counts, for docker and podman alike."""
    prefix = ("docker", "run", "--pids-limit=4096", "{limits}", "image")
    assert process_words(prefix, False, {"NPROC": 7}) == ()
    from mimo_hf.scheduler.executors.worker import wrapper

    assert wrapper(prefix, "/x", 1, {}, {"NPROC": 7, "CPU": 3}) == [
        "docker", "run", "--pids-limit=4096", "--pids-limit=7", "--ulimit=cpu=3", "image",
    ]  # fmt: skip


def test_a_bound_on_processes_that_can_not_hold_is_refused_with_the_remedy():
    """Root is exempt from RLIMIT_NPROC, and so is root's bubblewrap where it stays root outside."""
    if limits_processes(()):
        pytest.skip("this user's processes can be counted")
    with pytest.raises(ValueError, match=r"`limits` of Command must leave NPROC out.*NPROC=64.*ordinary user"):
        run("true", limits={"NPROC": 64})

    async def work(scheduler):
        with pytest.raises(ValueError, match=r"got NPROC=64"):
            await scheduler.run(Action("few", Command(("true",), limits={"NPROC": 64}), {"cpu": 1}))

    drive(work)


def as_somebody(words):
    """The words, for a user whose processes the kernel counts."""
    return (
        words
        if os.getuid()
        else ("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", "--", *words)
    )


def open_folder(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    for path in (folder, *list(folder.parents)[:4]):
        if path.stat().st_uid == os.getuid() and path.name.startswith(("pytest", "popen", "test", "open")):
            path.chmod(0o777)
    return str(folder)


STARTS = "import os, time\nn = 0\ntry:\n    while n < 200:\n        if os.fork() == 0:\n            time.sleep(60)\n            os._exit(0)\n        n += 1\nexcept OSError:\n    pass\nprint(n)\nos.kill(-1, 9) if os.getpid() < 10 else None"


@pytest.fixture
def counted(monkeypatch):
    """Words of a bubblewrap whose namespace counts its own processes, also where root runs the tests."""
    from mimo_hf.scheduler.executors.local import sandbox

    words = sandbox("bwrap")
    if not limits_processes(words):
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is needed to become an ordinary user")
        words = as_somebody(words)
    assert limits_processes(words)
    return words


@pytest.mark.needs("bwrap")
def test_a_command_in_bubblewrap_starts_no_more_processes_than_it_may(counted, tmp_path):
    folder = open_folder(tmp_path)
    script = STARTS.rpartition("\n")[0]
    result = run("/usr/bin/python3", "-c", script, prefix=counted, cwd=folder, limits={"NPROC": 20})
    assert 5 <= int(result.stdout) < 20


@pytest.mark.needs("bwrap")
def test_without_a_word_a_command_in_bubblewrap_has_the_bound_of_the_guide(counted, tmp_path):
    folder = open_folder(tmp_path)
    words = (*counted, *process_words(counted, True, {}))
    shown = run("sh", "-c", "grep 'Max processes' /proc/self/limits", prefix=words, cwd=folder).stdout
    assert shown.split()[2:4] == [str(PROCESSES)] * 2
    assert process_words(counted, False, {}) == ()


@pytest.mark.needs("bwrap")
def test_the_executor_finds_out_whether_its_sandbox_counts_processes():
    assert LocalExecutor(sandbox="bwrap").counts_processes == limits_processes(SANDBOXES["bwrap"])
    assert not LocalExecutor().counts_processes


def test_an_ordinary_user_may_bound_processes_without_a_sandbox(tmp_path):
    """In a fork, which root turns into an ordinary user: root's processes are not counted."""
    folder = open_folder(tmp_path)
    most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    said, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(SOMEBODY)
                os.setuid(SOMEBODY)
                limits_processes.cache_clear()  # what is known is of root
            limits = {"NPROC": 3000}
            shown = run("sh", "-c", "grep 'Max processes' /proc/self/limits", cwd=folder, limits=limits).stdout
        except BaseException as error:  # noqa: BLE001  it belongs to the test, not to a fork of pytest
            shown = repr(error)
        os.write(says, shown.encode())
        os._exit(0)
    os.close(says)
    with open(said) as answer:
        shown = answer.read()
    os.waitpid(pid, 0)
    assert shown.split()[2:3] == [str(3000 if most == resource.RLIM_INFINITY else min(3000, most))], shown
