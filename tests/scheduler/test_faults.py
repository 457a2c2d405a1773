"""Processes are killed while actions run: nothing is lost unseen, nothing is left behind."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from mimo_hf.scheduler import Action, Command, SchedulerLost, WorkerLost
from mimo_hf.scheduler.executors.guard import tagged

from .conftest import alive, call, drive

WORKER_KILLS, OWNER_KILLS = 46, 6


def test_workers_killed_again_and_again_cost_no_idempotent_action_and_no_lease():
    """Each of the kills is followed by a look at the book, the leases and the processes."""
    rng = random.Random(0)

    def make(number):
        if number % 5 == 4:  # leaves a process in a session of its own
            script = Command(("sh", "-c", f"setsid sleep 60 & sleep 0.04; echo {number}"))
            return Action("tree", script, {"cpu": 1}, idempotent=number % 2 == 0)
        return call(f"(__import__('time').sleep(0.04), {number})[1]", idempotent=number % 2 == 0)

    async def work(scheduler):
        executor = scheduler.executor
        handles = []
        killed = 0
        while killed < WORKER_KILLS:
            while scheduler.core.queued < 8:
                handles.append(await scheduler.submit(make(len(handles))))
            await asyncio.sleep(0.02)
            busy = list(executor._busy.values())
            if not busy:
                continue
            worker = rng.choice(busy)
            if worker.process.poll() is not None:
                continue
            os.kill(worker.process.pid, signal.SIGKILL)
            killed += 1
            deadline = time.monotonic() + 10
            while worker in executor._busy.values() and time.monotonic() < deadline:
                await asyncio.sleep(0.002)
            assert tagged(worker.tag) == []
            assert worker.process.poll() is not None
            scheduler.core.check()
            running = sum(handle.state in ("starting", "running") for handle in handles)
            assert len(scheduler.core.leases) == running <= 4
        results = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
        assert [pid for pid in tagged(f"{executor._owner}-") if pid not in executor.workers()] == []
        return handles, results

    handles, results = drive(work, timeout_s=100, loss_retries=60, kill_grace_s=0.0)
    ended = Counter()
    for number, (handle, result) in enumerate(zip(handles, results, strict=True)):
        if isinstance(result, WorkerLost):
            assert not handle.action.idempotent
            assert handle.attempt == 1
            ended["lost"] += 1
        else:
            assert int(getattr(result, "stdout", result)) == number
            ended["done"] += 1
        ended["tries"] += handle.attempt
    assert ended["lost"] > 0
    # A kill may hit a worker whose action has just ended: it then costs no try.
    assert WORKER_KILLS - 5 <= ended["tries"] - len(handles) + ended["lost"] <= WORKER_KILLS


OWNER = """
import asyncio, sys
from mimo_hf.scheduler import Action, ActionScheduler, Command, SchedulerConfig
async def main():
    async with ActionScheduler(SchedulerConfig(cpu_cores=4, cpu_enforce="count")) as s:
        tree = Command(("sh", "-c", "setsid sleep 60 & sleep 60"))
        for number in range(6):
            await s.submit(Action("tree", tree, {"cpu": 1}))
        await asyncio.sleep(0.3)
        print(s.executor._owner, s.address, *s.executor.workers(), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("attempt", range(OWNER_KILLS))
def test_a_killed_scheduler_leaves_no_process_and_no_lock(attempt):
    job = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    owner, address, *workers = job.stdout.readline().split()
    assert len(tagged(f"{owner}-")) >= 8
    time.sleep(0.02 * attempt)

    async def ask():
        from mimo_hf.scheduler import SchedulerClient

        client = SchedulerClient(address)
        waiting = asyncio.create_task(client.run(call("1")))
        await asyncio.sleep(0.1)
        job.kill()
        with pytest.raises(SchedulerLost):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(ask())
    job.wait()
    job.stdout.close()
    deadline = time.monotonic() + 10
    while tagged(f"{owner}-") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert tagged(f"{owner}-") == []
    assert not any(alive(int(pid)) for pid in workers)
    drive(lambda scheduler: scheduler.run(call("1")))  # the lock of the dead is free


def test_a_lost_action_that_may_have_started_is_reported_and_not_repeated(tmp_path):
    log = tmp_path / "log"
    suicide = f"(open({str(log)!r}, 'a').write('x'), __import__('os').kill(__import__('os').getpid(), 9))"

    async def work(scheduler):
        once = await scheduler.submit(call(suicide, retries=3))
        with pytest.raises(WorkerLost, match="may have started"):
            await once
        attempts = [once.attempt]
        again = await scheduler.submit(call(suicide, idempotent=True))
        with pytest.raises(WorkerLost):
            await again
        return [*attempts, again.attempt], len(log.read_text())

    attempts, runs = drive(work, loss_retries=2)
    assert attempts == [1, 3]
    assert runs == 1 + 3


def test_a_worker_that_died_idle_is_replaced_without_anyone_noticing():
    async def work(scheduler):
        for pid in scheduler.executor.workers():
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
        return await scheduler.map([call(str(n)) for n in range(8)])

    assert drive(work) == list(range(8))


def test_random_cancels_timeouts_and_kills_leave_nothing():
    rng = random.Random(1)

    async def work(scheduler):
        handles = []
        for number in range(120):
            options = {"timeout_s": 0.03} if rng.random() < 0.2 else {}
            options |= {"queue_timeout_s": 0.05} if rng.random() < 0.2 else {}
            cost = {"cpu": rng.choice([1, 2, 4])}
            handles.append(
                await scheduler.submit(
                    call(
                        f"__import__('time').sleep({rng.uniform(0, 0.06)})",
                        cost,
                        trajectory=f"t{number % 7}",
                        **options,
                    )
                )
            )
            roll = rng.random()
            if roll < 0.2:
                rng.choice(handles).cancel()
            elif roll < 0.25:
                scheduler.cancel(f"t{rng.randrange(7)}")
            elif roll < 0.35 and scheduler.executor._busy:
                worker = rng.choice(list(scheduler.executor._busy.values()))
                if worker.process.poll() is None:
                    os.kill(worker.process.pid, signal.SIGKILL)
            await asyncio.sleep(rng.uniform(0, 0.03))
            scheduler.core.check()
        await asyncio.wait([handle.future for handle in handles])
        return Counter(handle.state for handle in handles)

    states = drive(work, kill_grace_s=0.0)
    assert set(states) <= {"done", "failed", "cancelled", "timed_out"}
    assert sum(states.values()) == 120
    assert len(states) == 4
