"""Other processes share one scheduler: clients pickle, their deaths cancel, and a machine has one owner."""

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest

from mimo_hf.scheduler import (
    Action,
    ActionScheduler,
    ActionTimeout,
    Command,
    SchedulerClient,
    SchedulerConfig,
    SchedulerLost,
    WorkerLost,
)
from mimo_hf.scheduler.sharing.owner import ADDRESS_VARIABLE, current_owner

from .conftest import call, drive

SLEEP = "__import__('time').sleep({})"


@contextlib.contextmanager
def running(**config):
    with ActionScheduler(SchedulerConfig(**({"cpu_cores": 4, "cpu_enforce": "count"} | config))) as scheduler:
        yield scheduler


def test_a_client_survives_a_pickle_and_works_in_another_process():
    with running() as scheduler:
        client = pickle.loads(pickle.dumps(scheduler.client()))
        assert client.run_sync(call("6 * 7")) == 42
        payload = pickle.dumps(scheduler.client())
        nested = f"__import__('pickle').loads({payload!r}).run_sync(__import__('pickle').loads({pickle.dumps(call('5'))!r}))"
        assert client.run_sync(call(nested)) == 5
        assert asyncio.run(client.map([call(str(n)) for n in range(10)])) == list(range(10))
        assert client.stats()["outcomes"] == {"done": 13}


def test_errors_reach_the_client():
    with running() as scheduler:
        client = scheduler.client()
        with pytest.raises(ZeroDivisionError):
            client.run_sync(call("1 / 0"))
        with pytest.raises(FileNotFoundError):
            client.run_sync(call("open('/no/such/file')"))
        with pytest.raises(ActionTimeout, match=r"timeout_s=0\.05"):
            client.run_sync(call(SLEEP.format(60), timeout_s=0.05))
        with pytest.raises(ValueError, match="largest node has, 4"):
            client.run_sync(call("1", {"cpu": 5}))
        with pytest.raises(WorkerLost):
            client.run_sync(call("__import__('os').kill(__import__('os').getpid(), 9)"))
        with pytest.raises(TypeError, match="picklable"):
            client.run_sync(Action("x", threading.Lock().acquire, {"cpu": 1}))
        assert client.run_sync(call("1")) == 1


def test_a_client_that_leaves_takes_its_actions_along():
    with running() as scheduler:

        async def leave():
            client = scheduler.client()
            task = await client.submit(call(SLEEP.format(60), {"cpu": 4}))
            await asyncio.sleep(0.1)
            assert scheduler.stats()["running"] == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(leave())
        assert scheduler.run_sync(call("1", {"cpu": 4})) == 1

        script = (
            "import sys; from functools import partial; from mimo_hf.scheduler import Action, SchedulerClient; import time\n"
            "SchedulerClient(sys.argv[1]).run_sync(Action('x', partial(time.sleep, 60), {'cpu': 4}))"
        )
        child = subprocess.Popen([sys.executable, "-c", script, scheduler.address])
        while not scheduler.stats()["running"]:
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
        child.wait()
        assert scheduler.run_sync(call("2", {"cpu": 4})) == 2
        assert scheduler.stats()["outcomes"] == {"cancelled": 2, "done": 2}


def test_a_client_whose_trajectory_is_cancelled_by_another_is_told():
    with running() as scheduler:

        async def wait():
            task = await scheduler.client().submit(call(SLEEP.format(60), trajectory="t"))
            await asyncio.sleep(0.1)
            assert await asyncio.to_thread(scheduler.client().cancel, "t") == 1
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 10)

        asyncio.run(wait())


def test_clients_of_a_closed_scheduler_are_told():
    with running() as scheduler:
        client = scheduler.client()
        assert client.run_sync(call("1")) == 1
    with pytest.raises(SchedulerLost):
        client.run_sync(call("1"))
    with pytest.raises(SchedulerLost, match=ADDRESS_VARIABLE):
        SchedulerClient()
    with pytest.raises(ValueError, match="unix:/path"):
        SchedulerClient("tcp:1").run_sync(call("1"))


def test_a_client_finds_the_owner_of_the_machine(monkeypatch):
    with running() as scheduler:
        assert SchedulerClient().address == scheduler.address == current_owner()["address"]
        monkeypatch.setenv(ADDRESS_VARIABLE, "unix:/elsewhere")
        assert SchedulerClient().address == "unix:/elsewhere"
    assert current_owner() is None


def test_two_owners_on_one_machine_are_refused():
    with running(), pytest.raises(RuntimeError, match=f"process {os.getpid()} hands out this machine's cores already"):
        ActionScheduler(SchedulerConfig(cpu_cores=1)).start_in_thread()
    drive(lambda scheduler: scheduler.run(call("1")))


SECOND = """
import os
from functools import partial
from mimo_hf.scheduler import Action, ActionScheduler, SchedulerConfig
with ActionScheduler(on_owned="connect") as scheduler:
    print(type(scheduler).__name__, scheduler.run_sync(Action("square", partial(pow, 7, 2), cost={"cpu": 1})))
    print(scheduler.client().stats()["outcomes"])
try:
    with ActionScheduler(SchedulerConfig(cpu_cores=3, cpu_enforce="count"), on_owned="connect"):
        pass
except ValueError as error:
    print(error)
"""


def test_a_second_program_connects_to_the_owner():
    with running() as scheduler:
        second = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, check=True)
        assert scheduler.stats()["outcomes"] == {"done": 1}
    client, outcomes, other = second.stdout.splitlines()
    assert client == "SchedulerClient 49"
    assert outcomes == "{'done': 1}"
    assert "cpu_cores=4, not 3" in other


def test_connecting_is_for_machines_that_are_owned():
    with ActionScheduler(SchedulerConfig(cpu_cores=2, cpu_enforce="count"), on_owned="connect") as first:
        assert isinstance(first, ActionScheduler)

        async def second():
            async with ActionScheduler(on_owned="connect") as client:
                return type(client), await client.run(call("6 * 7"))

        assert asyncio.run(second()) == (SchedulerClient, 42)
    assert current_owner() is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_owned": "share"}, "`on_owned` must be 'raise' or 'connect'; got 'share'"),
        ({"on_owned": "connect", "resources": {"memory": 5}}, "no `resources` of yours"),
        ({"on_owned": "connect", "exclusive": False}, "goes with `exclusive=True`"),
    ],
)
def test_what_can_not_be_shared_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ActionScheduler(**options)


def test_a_lock_whose_owner_died_names_nobody(tmp_path, monkeypatch):
    (tmp_path / "lock").write_text('{"pid": 1, "start": "not that of process 1", "address": "unix:/x"}')
    monkeypatch.setenv("MIMO_SCHED_LOCK", str(tmp_path / "lock"))
    assert current_owner() is None
    drive(lambda scheduler: scheduler.run(call("1")))


def test_other_settings_than_the_owners_are_refused():
    with running(quotas={"search": {"concurrency": 2}}) as scheduler:
        client = scheduler.client()
        same = SchedulerConfig(cpu_cores=4, cpu_enforce="count", quotas={"search": {"concurrency": 2}}, seed=5)
        assert client.expect(same) is client
        with pytest.raises(ValueError, match=r"policy='price', not 'fifo'.*quotas="):
            client.expect(SchedulerConfig(cpu_cores=4, cpu_enforce="count", policy="fifo"))


LAUNCHED = """
import sys, time
from accelerate import debug_launcher

def work(log):
    from accelerate import PartialState
    from mimo_hf.scheduler import Action, ActionScheduler, Command, SchedulerConfig

    state = PartialState(cpu=True)
    scheduler = ActionScheduler.from_accelerate(SchedulerConfig(cpu_cores=3, cpu_enforce="count"), state)
    note = f"echo $(date +%s.%N) {{}} >> {log}"
    script = f"{note.format(1)}; sleep 0.03; {note.format(-1)}"
    for _ in range(3):
        import asyncio
        actions = [Action("sh", Command(("sh", "-c", script)), {"cpu": 1}) for _ in range(8)]
        asyncio.run(scheduler.map(actions))
    with open(log + ".ranks", "a") as ranks:
        ranks.write(type(scheduler).__name__ + "\\n")
    state.wait_for_everyone()
    if isinstance(scheduler, ActionScheduler):
        scheduler.stop()

if __name__ == "__main__":
    debug_launcher(work, (sys.argv[1],), num_processes=2)
"""


def test_two_ranks_share_one_owner_and_no_core_is_given_twice(tmp_path):
    script, log = tmp_path / "job.py", tmp_path / "log"
    script.write_text(LAUNCHED)
    done = subprocess.run(
        [sys.executable, str(script), str(log)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted((tmp_path / "log.ranks").read_text().split()) == ["ActionScheduler", "SchedulerClient"]
    changes = sorted((float(at), int(change)) for at, change in map(str.split, log.read_text().splitlines()))
    assert len(changes) == 2 * 2 * 3 * 8
    level = most = 0
    for _, change in changes:
        level += change
        most = max(most, level)
    assert most == 3


def test_a_process_of_another_job_attaches_to_the_owner():
    from accelerate import PartialState

    with running() as scheduler:
        client = ActionScheduler.from_accelerate(state=PartialState())
        assert isinstance(client, SchedulerClient)
        assert client.address == scheduler.address
        assert client.run_sync(Action("sh", Command(("echo", "x")), {"cpu": 1})).stdout == "x\n"
        with pytest.raises(ValueError, match="runs with"):
            ActionScheduler.from_accelerate(SchedulerConfig(policy="waterfill"), PartialState())
