"""Live schedulers of a test: their own lock, and their loop; a trace to read and one that has been run."""

import asyncio
import os
from functools import partial

import pytest

from mimo_hf.scheduler import Action, ActionScheduler, SchedulerConfig
from mimo_hf.scheduler.sharing.owner import ADDRESS_VARIABLE, LOCK_VARIABLE
from mimo_hf.scheduler.simulate.simulator import recorded, simulate
from mimo_hf.scheduler.simulate.trace import write_trace
from mimo_hf.scheduler.simulate.workloads import coding

HEADER = '{"format": "mimo-trace", "version": 1, "nodes": {"n": {"cpu": 4}}}'
SLEEP = "__import__('time').sleep({})"


@pytest.fixture(autouse=True)
def own_lock(tmp_path_factory, monkeypatch):
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path_factory.mktemp("lock") / "lock"))
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)


def drive(work, timeout_s=60, executor=None, services=None, resources=None, held=(), exclusive=True, **config):
    """Runs `work(scheduler)` on a scheduler of four counted cores, and looks at the book when all is over."""
    config = {"cpu_cores": 4, "cpu_enforce": "count", "kill_grace_s": 0.2} | config

    async def main():
        scheduler = ActionScheduler(
            SchedulerConfig(**config),
            executor=executor,
            services=services,
            resources=resources,
            held=held,
            exclusive=exclusive,
        )
        async with scheduler:
            result = await asyncio.wait_for(work(scheduler), timeout_s)
            await scheduler.drain(timeout_s)
            scheduler.core.check()
            assert not scheduler.core.leases
            return result

    return asyncio.run(main())


def call(source, cost=None, **options):
    """An action that evaluates an expression in a worker."""
    return Action(options.pop("kind", "call"), partial(eval, source), cost or {"cpu": 1}, **options)


def alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def nothing():
    return None


@pytest.fixture
def run_file(tmp_path):
    trace = coding(12, seed=5, cores=8)
    write_trace(tmp_path / "run.jsonl", recorded(trace, simulate(trace, keep_decisions=True)))
    return tmp_path / "run.jsonl"
