"""What every executor has to do: the same tests for this machine's processes and for a Ray cluster of two nodes."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from mimo_hf.scheduler import Action, ActionTimeout, Command, ElasticRange, EnvironmentLost, WorkerLost
from mimo_hf.scheduler.errors import SchedulerError
from mimo_hf.scheduler.executors.local import LocalExecutor

from .conftest import alive, call, drive

SLEEP = "__import__('time').sleep({})"
PID = "__import__('os').getpid()"


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    two.add_node(num_cpus=2)
    ray.init(address=two.address, log_to_driver=False, logging_level="ERROR")
    yield two
    ray.shutdown()
    two.shutdown()


@pytest.fixture(params=["local", "ray"])
def executor(request):
    """Four cores, on one node or on two."""
    if request.param == "local":
        return LocalExecutor(4, enforce="count", kill_grace_s=0.2)
    request.getfixturevalue("cluster")
    from mimo_hf.scheduler.executors.ray import RayExecutor

    return RayExecutor(cores_per_node=2, enforce="count", kill_grace_s=0.2)


async def workers_of(scheduler):
    executor = scheduler.executor
    return await executor.worker_pids() if executor.name == "ray" else executor.workers()


async def kill_a_worker(scheduler):
    """The last one; while new ones are still starting, or the last has just ended, waits for another."""
    while True:
        try:
            os.kill((await workers_of(scheduler))[-1], signal.SIGKILL)
            return
        except (IndexError, ProcessLookupError):
            await asyncio.sleep(0.01)


def test_results_and_exceptions_come_back(executor):
    async def work(scheduler):
        results = await scheduler.map([call(f"{n} * {n}") for n in range(30)])
        with pytest.raises(ZeroDivisionError):
            await scheduler.run(call("1 / 0"))
        echoed = await scheduler.run(Action("sh", Command(("sh", "-c", "cat; exit 3"), stdin="x"), {"cpu": 1}))
        return results, echoed

    results, echoed = drive(work, executor=executor)
    assert results == [n * n for n in range(30)]
    assert (echoed.returncode, echoed.stdout) == (3, "x")


def test_all_cores_of_all_nodes_are_used_and_units_stay_on_one_node(executor):
    async def work(scheduler):
        begin = time.monotonic()
        await scheduler.map([call(SLEEP.format(0.4)) for _ in range(4)])
        took = time.monotonic() - begin
        handle = await scheduler.submit(
            call("int(__import__('os').environ['MIMO_ACTION_CORES'])", {"cpu": ElasticRange(1, 4)})
        )
        return took, await handle, handle.lease

    took, cores, lease = drive(work, executor=executor)
    assert took < 1.6  # one after another they take 1.6 s
    assert cores == lease.units == len(lease.cores) == lease.node.capacity["cpu"]


def test_a_timeout_ends_the_tree(executor, tmp_path):
    script = f"setsid sleep 60 & echo $! > {tmp_path}/pid; wait"

    async def work(scheduler):
        handle = await scheduler.submit(Action("sh", Command(("sh", "-c", script)), {"cpu": 2}, timeout_s=0.4))
        with pytest.raises(ActionTimeout, match=r"timeout_s=0\.4"):
            await handle
        return handle.state, alive(int((tmp_path / "pid").read_text()))

    assert drive(work, executor=executor) == ("timed_out", False)


def test_cancelling_ends_the_tree_before_the_cores_are_free(executor, tmp_path):
    script = f"setsid sleep 60 & echo $! > {tmp_path}/pid; wait"

    async def work(scheduler):
        handle = await scheduler.submit(Action("sh", Command(("sh", "-c", script)), {"cpu": 2}))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
        handle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handle
        return handle.state, alive(int((tmp_path / "pid").read_text()))

    assert drive(work, executor=executor) == ("cancelled", False)


def test_a_lost_worker_costs_only_what_may_not_be_repeated(executor, tmp_path):
    once = tmp_path / "once"
    first_time = f"(open({str(once)!r}, 'x').close(), __import__('os').kill({PID}, 9)) if not __import__('os').path.exists({str(once)!r}) else 7"

    async def work(scheduler):
        with pytest.raises(WorkerLost, match="may have started"):
            await scheduler.run(call(f"__import__('os').kill({PID}, 9)"))
        handle = await scheduler.submit(call(first_time, idempotent=True))
        return await handle, handle.attempt

    assert drive(work, executor=executor) == (7, 2)


def test_killed_workers_cost_no_idempotent_action_and_no_lease(executor):
    async def work(scheduler):
        handles = [await scheduler.submit(call(f"({SLEEP.format(0.1)}, {n})[1]", idempotent=True)) for n in range(40)]
        for _ in range(6):
            await asyncio.sleep(0.1)
            await kill_a_worker(scheduler)
            scheduler.core.check()
        return await asyncio.gather(*(handle.result() for handle in handles))

    assert drive(work, executor=executor, loss_retries=10) == list(range(40))


def test_a_sticky_environment_stays_on_its_node(executor, tmp_path):
    async def work(scheduler):
        nodes = []
        for n in range(6):
            blockers = [await scheduler.submit(call(SLEEP.format(0.02))) for _ in range(n % 3)]
            handle = await scheduler.submit(call("1", env="e"))
            await handle
            nodes.append(handle.lease.node.name)
            await asyncio.gather(*(blocker.result() for blocker in blockers))
        scheduler.release("e")
        return nodes

    assert len(set(drive(work, executor=executor))) == 1


def test_nothing_is_left_after_close(executor):
    async def work(scheduler):
        await scheduler.map([call("1") for _ in range(8)])
        return await workers_of(scheduler)

    workers = drive(work, executor=executor)
    assert len(workers) >= 2
    assert not any(alive(pid) for pid in workers)


@pytest.fixture
def ray_executor(cluster):
    from mimo_hf.scheduler.executors.ray import RayExecutor

    return RayExecutor(cores_per_node=2, enforce="count", kill_grace_s=0.2)


def wait_for_cores(count):
    """Ray gives a placement group's cores back a moment after it is removed."""
    import ray

    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU", 0) != count and time.monotonic() < deadline:
        time.sleep(0.1)
    return ray.available_resources()["CPU"]


def test_cores_are_reserved_from_other_users_of_the_cluster(ray_executor):
    import ray

    async def work(scheduler):
        return ray.available_resources().get("CPU", 0)

    everything = ray.cluster_resources()["CPU"]
    assert wait_for_cores(everything) == everything
    assert drive(work, executor=ray_executor) == everything - 4
    assert wait_for_cores(everything) == everything


def test_a_call_that_fails_on_its_node_does_not_cost_the_node(ray_executor):
    async def work(scheduler):
        handle = await scheduler.submit(call("1"))
        await handle
        with pytest.raises(SchedulerError, match="could not run the action: TypeError"):
            await scheduler.executor.run(handle.lease, handle.payload.payload, None, "soon")
        return len(scheduler.core.nodes), await scheduler.map([call(str(n)) for n in range(4)])

    assert drive(work, executor=ray_executor) == (2, [0, 1, 2, 3])


def test_a_killed_actor_is_replaced_and_leaves_no_process(ray_executor):
    async def work(scheduler):
        executor = scheduler.executor
        name, actor = next(iter(executor._actors.items()))
        workers = await actor.workers.remote()
        handles = [
            await scheduler.submit(call(f"({SLEEP.format(0.3)}, {n})[1]", idempotent=n % 4 < 2)) for n in range(16)
        ]
        await asyncio.sleep(0.2)
        parent = int(Path(f"/proc/{workers[0]}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        results = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
        scheduler.core.check()
        deadline = time.monotonic() + 20
        while len(scheduler.core.nodes) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        again = await scheduler.map([call(str(n)) for n in range(8)])
        return results, [pid for pid in workers if alive(pid)], name in scheduler.core.nodes, again

    results, left, back, again = drive(work, executor=ray_executor, timeout_s=90)
    for n, result in enumerate(results):
        assert result == n or (n % 4 >= 2 and isinstance(result, WorkerLost))
    assert any(isinstance(result, WorkerLost) for result in results)
    assert left == []
    assert back
    assert again == list(range(8))


def test_a_killed_node_costs_its_environments_and_nothing_idempotent(cluster, ray_executor):
    third = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()

    async def work(scheduler):
        name = f"ray-{third.node_id[:8]}"
        assert name in scheduler.core.nodes
        started = [await scheduler.submit(call(SLEEP.format(0.1), env=f"e{n}")) for n in range(12)]
        await asyncio.gather(*(handle.result() for handle in started))
        homes = {handle.action.env: handle.lease.node.name for handle in started}
        actor = scheduler.executor._actors[name]
        workers = await actor.workers.remote()
        handles = [await scheduler.submit(call(f"({SLEEP.format(0.4)}, {n})[1]", idempotent=True)) for n in range(18)]
        await asyncio.sleep(0.2)
        cluster.remove_node(third, allow_graceful=False)
        results = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
        lost = next((env for env, node in homes.items() if node == name), None)
        kept = next(env for env, node in homes.items() if node != name)
        if lost is not None:
            with pytest.raises(EnvironmentLost, match=lost):
                await scheduler.run(call("1", env=lost))
            scheduler.release(lost)
            assert await scheduler.run(call("2", env=lost)) == 2
        assert await scheduler.run(call("3", env=kept)) == 3
        for env in homes:
            scheduler.release(env)
        deadline = time.monotonic() + 20
        while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return results, list(scheduler.core.nodes), name, [pid for pid in workers if alive(pid)], lost

    results, nodes, name, left, lost = drive(work, executor=ray_executor, timeout_s=120)
    assert results == list(range(18))
    assert name not in nodes
    assert len(nodes) == 2
    assert left == []
    assert lost is not None
