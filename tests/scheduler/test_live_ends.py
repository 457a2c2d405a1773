"""How actions of a live scheduler end before they are done: timeouts, cancellation, lost schedulers."""

import asyncio

import pytest

from mimo_hf.scheduler import (
    Action,
    ActionScheduler,
    ActionTimeout,
    Command,
    SchedulerConfig,
    SchedulerLost,
)

from .conftest import SLEEP, alive, call, drive, nothing


def test_a_run_timeout_ends_the_whole_tree_and_only_then_frees_the_cores(tmp_path):
    script = f"sleep 60 & echo $! >> {tmp_path}/pids; setsid sleep 60 & echo $! >> {tmp_path}/pids; env -i /bin/sleep 60 & echo $! >> {tmp_path}/pids; wait"

    async def work(scheduler):
        slow = await scheduler.submit(Action("sh", Command(("sh", "-c", script)), {"cpu": 4}, timeout_s=0.5))
        after = await scheduler.submit(call(f"[int(pid) for pid in open({str(tmp_path / 'pids')!r})]"))
        with pytest.raises(ActionTimeout, match=r"timeout_s=0\.5"):
            await slow
        pids = await after
        return slow, pids, [pid for pid in pids if alive(pid)], scheduler.executor.escaped

    slow, pids, left, escaped = drive(work)
    assert slow.state == "timed_out"
    assert len(pids) == 3
    assert left == []
    assert pids[1] in escaped  # it had left the session of its worker


def test_a_queue_timeout_ends_only_the_wait():
    async def work(scheduler):
        blocker = await scheduler.submit(call(SLEEP.format(0.4), {"cpu": 4}))
        waiting = await scheduler.submit(call("1", queue_timeout_s=0.05))
        with pytest.raises(ActionTimeout, match="queue_timeout_s"):
            await waiting
        quick = await scheduler.run(call("2", queue_timeout_s=30))
        await blocker
        return waiting.state, quick, waiting.lease

    assert drive(work) == ("timed_out", 2, None)


def test_a_timeout_raised_by_an_action_in_this_process_is_its_own():
    async def late():
        raise TimeoutError("the web server did not answer")

    async def work(scheduler):
        handle = await scheduler.submit(Action("get", late, {"cpu": 1}))
        with pytest.raises(TimeoutError, match="web server"):
            await handle
        return handle.state

    assert drive(work) == "failed"


def test_cancelling_a_waiting_action_lets_the_next_one_through():
    async def work(scheduler):
        blocker = await scheduler.submit(call(SLEEP.format(0.2), {"cpu": 3}))
        large = await scheduler.submit(call("1", {"cpu": 4}))
        small = await scheduler.submit(call("2", {"cpu": 1}))
        assert large.cancel()
        result = await small
        still = blocker.done()
        with pytest.raises(asyncio.CancelledError):
            await large
        return result, still, large.state, large.cancel()

    assert drive(work) == (2, False, "cancelled", False)


def test_cancelling_a_running_action_ends_its_processes(tmp_path):
    async def work(scheduler):
        handle = await scheduler.submit(
            Action("sh", Command(("sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 60")), {"cpu": 4})
        )
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
        handle.cancel()
        handle.cancel()
        pid = await scheduler.run(call(f"int(open({str(tmp_path / 'pid')!r}).read())"))
        return handle.state, alive(pid)

    assert drive(work) == ("cancelled", False)


def test_an_action_cancelled_between_its_lease_and_its_first_step_gives_the_lease_back():
    async def work(scheduler):
        handle = await scheduler.submit(Action("n", nothing, {"cpu": 4}))
        scheduler._dispatcher.decide()
        assert handle.state == "starting"
        handle.cancel()
        await scheduler.run(Action("n", nothing, {"cpu": 4}))
        return handle.state

    assert drive(work) == "cancelled"


def test_cancelling_the_task_that_runs_an_action_cancels_the_action():
    async def work(scheduler):
        task = asyncio.create_task(scheduler.run(call(SLEEP.format(60), {"cpu": 4})))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await scheduler.run(call("3", {"cpu": 4}))

    assert drive(work) == 3


def test_cancelling_a_trajectory_ends_its_actions_and_frees_what_it_held():
    async def work(scheduler):
        mine = [
            await scheduler.submit(call(SLEEP.format(60), {"cpu": 1, "memory": 6}, trajectory="a", env=f"e{n}"))
            for n in range(2)
        ]
        other = await scheduler.submit(call("4", {"cpu": 1, "memory": 6}, trajectory="b"))
        await asyncio.sleep(0.1)
        count = scheduler.cancel("a")
        result = await other
        scheduler.release("b")
        await asyncio.sleep(0)
        return count, result, [handle.state for handle in mine], scheduler.in_use()["memory"]

    assert drive(work, resources={"memory": 10}, held=["memory"]) == (2, 4, ["cancelled"] * 2, 0)


def test_after_close_nothing_is_taken_and_what_waited_is_lost():
    async def main():
        scheduler = ActionScheduler(SchedulerConfig(cpu_cores=1, cpu_enforce="count", kill_grace_s=0.1))
        async with scheduler:
            running = await scheduler.submit(call(SLEEP.format(60)))
            waiting = await scheduler.submit(call("1"))
            await asyncio.sleep(0.05)
            workers = scheduler.executor.workers()
        for handle in (running, waiting):
            with pytest.raises(SchedulerLost, match="closed"):
                await handle
        with pytest.raises(SchedulerLost, match="nothing can be submitted"):
            await scheduler.submit(call("1"))
        return [pid for pid in workers if alive(pid)]

    assert asyncio.run(main()) == []
