"""Things that happen at once, and who waits for what: time-outs of stuck workers, shared actions, retries, ends of loops."""

import asyncio
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from mimo_hf.scheduler import (
    Action,
    ActionScheduler,
    ActionTimeout,
    Command,
    QuotaRefused,
    SchedulerConfig,
    SchedulerLost,
)
from mimo_hf.scheduler.core.book import Node
from mimo_hf.scheduler.executors import local
from mimo_hf.scheduler.executors.guard import tagged
from mimo_hf.scheduler.sharing.owner import current_owner

from .conftest import alive, call, drive

SLEEP = "__import__('time').sleep({})"
kept = []


def leave_a_child_in_a_thread():
    """The thread goes on, and so does what it has started."""
    pids = queue.Queue()

    def work():
        kept.append(subprocess.Popen(["sleep", "60"]))
        pids.put(kept[-1].pid)
        time.sleep(60)

    threading.Thread(target=work, daemon=True).start()
    return pids.get()


def test_a_worker_that_does_not_listen_cannot_hold_an_action_beyond_its_timeout():
    async def work(scheduler):
        for pid in scheduler.executor.workers():
            os.kill(pid, signal.SIGSTOP)
        large = Action("x", partial(len, b"x" * 10_000_000), {"cpu": 4}, timeout_s=0.3)  # more than a socket holds
        begin = time.monotonic()
        with pytest.raises(ActionTimeout):
            await scheduler.run(large)
        took = time.monotonic() - begin
        for pid in scheduler.executor.workers():
            os.kill(pid, signal.SIGCONT)
        return took, await scheduler.run(call("5"))

    took, result = drive(work)
    assert took < 5
    assert result == 5


def test_a_child_of_a_thread_is_gone_before_the_cores_are_free():
    async def work(scheduler):
        pid = await scheduler.run(Action("x", leave_a_child_in_a_thread, {"cpu": 4}))
        return alive(pid)

    assert not drive(work)


def leave_a_dead_child():
    kept.append(subprocess.Popen(["true"]))
    time.sleep(0.1)
    return os.getpid()


def test_a_child_that_has_ended_costs_no_worker():
    """Nobody has waited for it, so it is a zombie when the action returns."""

    async def work(scheduler):
        return [await scheduler.run(Action("x", leave_a_dead_child, {"cpu": 4})) for _ in range(2)]

    first, second = drive(work, executor=local.LocalExecutor(4, enforce="count", warm=1))
    assert first == second


def test_an_action_whose_worker_could_not_be_started_is_tried_again(monkeypatch):
    start, failures = subprocess.Popen, [BlockingIOError("no more processes")] * 2

    def popen(*args, **options):
        if failures:
            raise failures.pop()
        return start(*args, **options)

    async def work(scheduler):
        monkeypatch.setattr(local.subprocess, "Popen", popen)
        handle = await scheduler.submit(call("7"))
        return await handle, handle.attempt

    executor = local.LocalExecutor(4, enforce="count", warm=0)
    assert drive(work, executor=executor) == (7, 3)


def test_who_leaves_a_shared_action_does_not_end_it_for_the_others():
    async def work(scheduler):
        slow = call(f"({SLEEP.format(0.3)}, 8)[1]", dedup_key="k")
        first, second = (asyncio.create_task(scheduler.run(slow)) for _ in range(2))
        await asyncio.sleep(0.1)
        first.cancel()
        result = await second
        lonely = [asyncio.create_task(scheduler.run(call(SLEEP.format(60), dedup_key="l"))) for _ in range(2)]
        await asyncio.sleep(0.1)
        for task in lonely:
            task.cancel()
        await asyncio.wait(lonely)
        await scheduler.drain(10)  # nobody waits for it any more
        return result, scheduler.stats()["outcomes"]

    assert drive(work) == (8, {"done": 1, "cancelled": 1})


def test_a_map_that_cannot_submit_all_leaves_nothing_running():
    async def work(scheduler):
        actions = [call(SLEEP.format(60)), call("1", {"cpu": 9})]
        with pytest.raises(ValueError, match="largest node has, 4"):
            await scheduler.map(actions)
        await scheduler.drain(10)
        outcomes = scheduler.stats()["outcomes"]
        return outcomes, await scheduler.map([call("1"), call("1", {"cpu": 9}), call("2")], return_exceptions=True)

    outcomes, mixed = drive(work)
    assert outcomes == {"cancelled": 1}
    assert mixed[0::2] == [1, 2]
    assert isinstance(mixed[1], ValueError)


def test_a_map_cancelled_while_the_queue_is_full_leaves_nothing_running():
    async def work(scheduler):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(scheduler.map([call(SLEEP.format(60), {"cpu": 4}) for _ in range(9)]), 0.2)
        await scheduler.drain(10)
        return scheduler.stats()["outcomes"]

    assert set(drive(work, max_queue=2)) == {"cancelled"}


def test_a_second_attempt_has_its_own_times_and_its_own_limit_to_waiting(tmp_path):
    path, answers = tmp_path / "run.jsonl", [QuotaRefused(), None, QuotaRefused(retry_after_s=60)]

    async def search():
        await asyncio.sleep(0.05)
        if answer := answers.pop(0):
            raise answer
        return "found"

    async def work(scheduler):
        good = await scheduler.submit(Action("search", search, {"key": 1}))
        result = await good
        late = await scheduler.submit(Action("search", search, {"key": 1}, queue_timeout_s=0.2))
        with pytest.raises(ActionTimeout, match="queue_timeout_s"):
            await late
        return result, good.attempt, late

    result, attempt, late = drive(work, quotas={"key": {"rate": 100.0, "burst": 10}}, trace_path=str(path))
    first, second = (json.loads(line) for line in path.read_text().splitlines()[1:])
    assert (result, attempt) == ("found", 2)
    assert 0.05 <= first["end_s"] - first["start_s"] < 0.09  # not both attempts
    assert first["start_s"] - first["submit_s"] >= 0.05
    assert (second["outcome"], late.lease) == ("timed_out", None)
    assert "start_s" not in second


def test_the_first_requests_of_a_client_share_one_connection():
    async def work(scheduler):
        results = await scheduler.client().map([call(str(n)) for n in range(30)])
        return results, len(scheduler._server._writers)

    assert drive(work) == (list(range(30)), 1)


class NoExecutor:
    def nodes(self):
        return [Node("n", {"cpu": 1})]

    async def start(self, node_lost, node_joined):
        pass


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_a_thread_that_waits_is_told_when_the_loop_ends():
    loop = asyncio.new_event_loop()
    scheduler = ActionScheduler(SchedulerConfig(), executor=NoExecutor(), exclusive=False)
    loop.run_until_complete(scheduler._start())
    told = []

    def ask():
        with pytest.raises(SchedulerLost, match="closed"):
            scheduler.run_sync(call("1"))
        told.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()  # its request stays with the loop, which never runs again
    time.sleep(0.1)
    loop.close()
    thread.join(10)
    assert told
    ask()  # and one that comes later


def test_a_forked_child_holds_up_neither_the_end_of_an_owner_nor_the_next_one():
    """Such as a worker of a data loader: it has copies of the lock and of all pipes."""
    context = multiprocessing.get_context("fork")
    with ActionScheduler(SchedulerConfig(cpu_cores=1, cpu_enforce="count")):
        child = context.Process(target=time.sleep, args=(60,))
        child.start()
    try:
        drive(lambda scheduler: scheduler.run(call("1")))
        assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_a_killed_owner_leaves_no_process_though_its_forked_child_lives_on():
    script = (
        "import os, time\nfrom mimo_hf.scheduler import Action, ActionScheduler, Command, SchedulerConfig\n"
        "with ActionScheduler(SchedulerConfig(cpu_cores=1, cpu_enforce='count')) as s:\n"
        "    s.start(Action('x', Command(('sh', '-c', 'setsid sleep 60 & sleep 60')), {'cpu': 1}))\n"
        "    time.sleep(0.3)\n"
        "    child = os.fork()\n"
        "    if child:\n        print(s.executor._owner, child, flush=True)\n"
        "    time.sleep(60)\n"
    )
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    owner, child = job.stdout.readline().split()
    assert len(tagged(f"{owner}-")) >= 3
    job.kill()
    job.wait()
    job.stdout.close()
    deadline = time.monotonic() + 10
    while tagged(f"{owner}-") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tagged(f"{owner}-") == []
    assert alive(int(child))
    os.kill(int(child), signal.SIGKILL)


def test_the_next_owner_removes_the_socket_of_one_that_was_killed():
    script = (
        "import time\nfrom mimo_hf.scheduler import Action, ActionScheduler, Command, SchedulerConfig\n"
        "with ActionScheduler(SchedulerConfig(cpu_cores=1, cpu_enforce='count')) as s:\n"
        "    print(s.address, flush=True)\n    time.sleep(60)\n"
    )
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    folder = Path(job.stdout.readline().strip().removeprefix("unix:")).parent
    job.kill()
    job.wait()
    job.stdout.close()
    assert folder.exists()
    drive(lambda scheduler: scheduler.run(call("1")))
    assert not folder.exists()
    assert current_owner() is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Command("ls -l"), "`argv`"),
        (lambda: Command(()), "`argv`"),
        (lambda: Command(("sleep", 1)), "`argv`"),
        (lambda: Command(("ls",), limits={"MEMORY": 1}), "must be of AS, "),
    ],
)
def test_a_command_that_is_none_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
