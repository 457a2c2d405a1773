"""The live dispatcher under a virtual clock decides what the simulator decides."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from mimo_hf.scheduler import Action, ActionScheduler, SchedulerConfig, TokenBucket
from mimo_hf.scheduler.core.book import Node
from mimo_hf.scheduler.live import dispatch, scheduler as live
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.workloads import coding, deepsearch


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer whenever nothing else is to be done."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self._clock_resolution = 1e-9
        select = self._selector.select

        def jump(timeout):
            if timeout and self._scheduled:
                self.now = max(self.now, self._scheduled[0]._when)
            return select(0 if timeout else timeout)

        self._selector.select = jump

    def time(self):
        return self.now


class Sleeper:
    """An executor whose actions take as long as their records say."""

    enforce = "count"

    def __init__(self, capacity, decisions):
        self.capacity, self.decisions = capacity, decisions

    def nodes(self):
        return [Node(name, amounts) for name, amounts in self.capacity.items()]

    async def start(self, node_lost, node_joined):
        pass

    async def close(self):
        pass

    async def run(self, lease, payload, main, timeout_s):
        share = lease.entry.shape.curve.share(lease.units) if lease.units > 1 else 1.0
        duration_s = float(payload) * share
        await asyncio.sleep(duration_s)
        return True, None, duration_s


def run_live(trace, capacity, policy, quotas, monkeypatch):
    loop, decisions = VirtualLoop(), []
    clock = SimpleNamespace(monotonic=loop.time, perf_counter=time.perf_counter)
    monkeypatch.setattr(dispatch, "time", clock)
    monkeypatch.setattr(live, "time", clock)
    monkeypatch.setattr(dispatch, "pack", dispatch.Pickled)

    async def follow(scheduler, records):
        for record in records:
            await asyncio.sleep(record.gap_s)
            action = Action(
                record.kind,
                str(record.t1_s),
                record.cost,
                record.trajectory,
                record.task,
                est_s=record.est_s,
                timeout_s=1e9,
            )
            handle = await scheduler.submit(action)
            await handle
            lease = handle.lease
            decisions.append((handle.timing["start_s"], record.id, lease.units, lease.node.name))

    async def main():
        config = SchedulerConfig(coalesce_ms=0, policy=policy, quotas=quotas)
        async with ActionScheduler(config, executor=Sleeper(capacity, decisions), exclusive=False) as scheduler:
            await asyncio.gather(*(follow(scheduler, records) for records in trace.trajectories().values()))

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return sorted(decisions)


def check(trace, capacity, policy, monkeypatch, quotas=None):
    found = run_live(
        trace,
        capacity,
        policy,
        {n: {"rate": q.rate, "burst": q.burst} for n, q in (quotas or {}).items()},
        monkeypatch,
    )
    expected = sorted(simulate(trace, capacity, policy, quotas=quotas, keep_decisions=True).decisions)
    assert [decision[1:] for decision in found] == [decision[1:] for decision in expected]
    assert [decision[0] for decision in found] == pytest.approx([decision[0] for decision in expected], abs=2e-3)
    return found


@pytest.mark.parametrize(
    "policy", ["price", "fifo(dop=4)", "waterfill", "evict(depth=8)", "srpt(max_overtake=4)", "hrrn"]
)
@pytest.mark.parametrize("seed", range(3))
def test_decisions_on_the_coding_trace_are_the_simulators(policy, seed, monkeypatch):
    decisions = check(coding(40, seed=seed), {"left": {"cpu": 12}, "right": {"cpu": 8}}, policy, monkeypatch)
    if policy != "fifo(dop=4)":
        assert len({units for _, _, units, _ in decisions}) > 3  # elastic, so there was something to decide


def test_decisions_under_a_quota_are_the_simulators(monkeypatch):
    trace = deepsearch(30, seed=1)
    check(trace, {"local": {"judge": 3}}, "fifo1", monkeypatch, {"search": TokenBucket(6.0, 6)})
