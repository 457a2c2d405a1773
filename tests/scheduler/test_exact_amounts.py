"""Amounts with fractions: what is taken comes back whole, and is never more than there is, by books of their own in fractions."""

import asyncio
import math

import pytest

from mimo_hf.scheduler import Action, ActionScheduler, Concurrency, SchedulerConfig, TokenBucket, Window
from mimo_hf.scheduler.core.numbers import PARTS, counted
from mimo_hf.scheduler.core.scheduler import Scheduler
from mimo_hf.scheduler.core.types import Amdahl, ElasticRange
from mimo_hf.scheduler.executors.local import LocalExecutor
from mimo_hf.scheduler.services.residency import Replica, Residency, Service
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import Record, Trace

POLICIES = ("price", "fifo1", "fifo4", "waterfill", "evict", "srpt", "hrrn")


@pytest.mark.parametrize("policy", POLICIES)
def test_all_of_a_resource_is_free_after_a_tenth_and_two(policy):
    costs = [(0.1, 2.0, 0.0), (0.2, 1.0, 0.0), (1.0, 1.0, 50.0)]
    records = [Record(i, "x", {"memory": a}, t, None, None, at, t) for i, (a, t, at) in enumerate(costs)]
    assert simulate(Trace(records, {"local": {"memory": 1.0}}), policy=policy).makespan_s == 51.0


@pytest.mark.parametrize("parts", [2, 3, 5, 6, 7, 10, 11, 13, 49, 1000, 4096])
def test_so_many_shares_fit_at_once(parts):
    core = Scheduler({"n": {"share": 1}}, {"calls": Concurrency(1), "window": Window(1, 5.0)}, debug=parts < 50)
    cost = dict.fromkeys(("share", "calls", "window"), 1 / parts)
    for _ in range(parts + 1):
        core.submit(0.0, Action("x", None, cost))
    leases = core.schedule(0.0)
    assert len(leases) == parts
    assert core.in_use()["share"] == pytest.approx(1, abs=parts * 1e-12)
    for lease in leases:
        core.finish(1.0, lease)
    assert core.nodes["n"].free == {"share": 1.0}
    assert core.quotas["calls"].in_use == 0.0


@pytest.mark.parametrize(
    ("amount", "count"),
    [
        (0, 0), (0.0, 0), (1, PARTS), (2.0, 2 * PARTS), (0.1, PARTS // 10), (0.7, 7 * PARTS // 10), (9.7, 97 * PARTS // 10),
        (0.1 + 0.2, 3 * PARTS // 10), (1 / 3, 333333333333), (2 / 3, 666666666666), (1e-9, 1000), (1e-12, 1), (5e-324, 1),
        (1e18, 10**30), (10**18 - 1, 10**30 - 10**12), (123456789.5, 123456789500000000000), (-0.1, -PARTS // 10),
    ],
)  # fmt: skip
def test_an_amount_is_counted_as_it_is_written(amount, count):
    assert counted(amount) == count


def test_a_cost_that_is_counted_as_the_capacity_is_possible():
    core = Scheduler({"n": {"share": 0.3}})
    core.submit(0.0, Action("x", None, {"share": 0.1 + 0.2}))
    assert len(core.schedule(0.0)) == 1
    with pytest.raises(
        ValueError, match=r"`cost` of 'share' must not be more than the largest node has, 0\.3; got 0\.3001\."
    ):
        core.submit(0.0, Action("x", None, {"share": 0.3001}))


def test_whole_units_beside_fractions_are_not_lost_to_rounding():
    core = Scheduler({"n": {"cpu": 4}}, policy="waterfill")
    for amount in (0.7, 0.1, 0.2):
        core.submit(0.0, Action("x", None, {"cpu": amount}))
    core.submit(0.0, Action("y", None, {"cpu": ElasticRange(1, 4, None, Amdahl(0.0))}))
    assert [lease.units for lease in core.schedule(0.0)] == [0, 0, 0, 3]


def test_what_a_trajectory_holds_comes_back_whole():
    core = Scheduler({"n": {"disk": 1.0}}, held=["disk"], debug=True)
    for turn in range(50):
        leases = []
        for home, amounts in (("a", (0.1, 0.3)), ("b", (0.2, 0.7))):
            for amount in amounts:
                core.submit(turn, Action("x", None, {"disk": amount}, trajectory=home))
                leases += core.schedule(turn)
        assert len(leases) == 4
        for lease in leases:
            core.finish(turn, lease)
        assert core.free_of("disk") == 0.0
        for home in "ab":
            core.close(turn, home)
        assert core.nodes["n"].free == {"disk": 1.0}


def test_quotas_are_empty_when_all_was_given_back_or_has_passed():
    quota, window = Concurrency(1), Window(1, 5.0)
    for amount in (0.1, 0.2, 0.7):
        assert quota.fits(amount, 0.0)
        assert window.fits(amount, 0.0)
        quota.take(amount, 0.0)
        window.take(amount, 0.0)
    assert not quota.fits(1e-9, 0.0)
    assert window.ready_s(1, 0.0) == 5.0
    for amount in (0.1, 0.2, 0.7):
        quota.give(amount, 1.0)
    assert quota.in_use == 0.0
    assert quota.fits(1, 1.0)
    assert window.fits(1, 5.0)


def test_a_large_bucket_fills_also_where_it_is_asked_all_the_time():
    bucket = TokenBucket(rate=1.0, burst=1e15)
    assert bucket.fits(1e15, 0.0)
    bucket.take(500, 0.0)
    for step in range(1, 60_000):  # a hundredth at a time is less than 1e15 can tell apart
        bucket.fits(1e15, step / 100)
    assert bucket.fits(1e15, 600.0)


def test_a_device_holds_services_whose_sizes_add_up_to_it():
    book = Residency(0.3)
    for name, size in (("a", 0.1), ("b", 0.2)):
        book.add(Service(name, size, 1.0))
        assert book.has_room(book.services[name])
        book.replicas.append(Replica(book.services[name], 0.0))
    assert (book.used, book.free) == (0.3, 0.0)
    assert Residency(math.inf).free == math.inf


def test_all_cores_are_free_again_on_a_live_scheduler():
    async def nothing():
        await asyncio.sleep(0.001)

    async def life():
        executor = LocalExecutor(4, enforce="count", warm=0)
        async with ActionScheduler(SchedulerConfig(), executor=executor, exclusive=False) as scheduler:
            await scheduler.map([Action("x", nothing, {"cpu": amount}) for amount in (0.7, 0.1)])
            await scheduler.run(Action("all", nothing, {"cpu": 4}, queue_timeout_s=20.0))
            return scheduler.in_use()

    assert asyncio.run(life()) == {"cpu": 0.0}
