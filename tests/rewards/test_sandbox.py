"""Programs that misbehave are contained, end in time, and leave nothing."""

import ast
import os
import secrets
import time
from pathlib import Path

import pytest

from mimo_hf.processes.program_pool import GRACE_S, Result
from mimo_hf.rewards import Limits

from ._attempts import PATIENT, open_sandbox
from ._hostile import DAEMON, GUARD, HOSTILE, KILLERS, LIMITS
from ._processes import os_servers, tree

ANSWER = "print(int(input()) + 1)"


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


@pytest.mark.parametrize("status", [0, 1])
def test_a_program_cannot_pretend_that_it_never_began(sandbox, status):
    source = (
        f"import os\nfor n in range(3, 64):\n    try: os.write(n, b'0')\n    except OSError: pass\nos._exit({status})"
    )
    assert sandbox.run(source).status == ("runtime_error" if status else "ok")
