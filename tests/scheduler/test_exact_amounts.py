"""Amounts with fractions: what is taken comes back whole, and is never more than there is, by books of their own in fractions."""

import asyncio
import math
import random
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction

import pytest

from mimo_hf.scheduler import Action, ActionScheduler, Concurrency, SchedulerConfig, TokenBucket, Window
from mimo_hf.scheduler.core.numbers import PARTS, counted
from mimo_hf.scheduler.core.scheduler import Scheduler
from mimo_hf.scheduler.core.types import Amdahl, ElasticRange, PowerLaw
from mimo_hf.scheduler.executors.local import LocalExecutor
from mimo_hf.scheduler.services.residency import Replica, Residency, Service
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import Record, Trace

POLICIES = ("price", "fifo1", "fifo4", "waterfill", "evict", "srpt", "hrrn")
PART = Decimal("1e-12")
LATE_S = 1e7  # after everything else
MOST_CALLS = 100_000


class PatientWindow(Window):
    """A window that fails where it is asked for ever."""

    asked = 0

    def ready_s(self, amount, now):
        self.asked += 1
        assert self.asked < MOST_CALLS, "the simulator turns in circles"
        return super().ready_s(amount, now)


def read(amount):
    """An amount as it is written, cut after twelve decimals, never 0."""
    return Fraction(max(PART, Decimal(repr(amount)).quantize(PART, ROUND_DOWN))) if amount else Fraction(0)


def some_amount(rng, most):
    """0 < amount <= most: decimals, shares, whole numbers, raw floats, or next to nothing."""
    amount = rng.choice(
        (
            round(rng.uniform(0, most), rng.randint(0, 3)),
            most / rng.choice((1, 2, 3, 7, 11, 13)),
            float(rng.randint(1, 4)),
            rng.uniform(0, most),
            rng.randint(1, 9) * 1e-9,
            most,
        )
    )
    return amount if 0 < amount <= most else most


def random_trace(rng):
    """(trace, quotas): unequal nodes, costs in fractions that some node can meet, and at the end all of each node at once."""
    nodes = {}
    for index in range(rng.randint(1, 3)):
        sizes = {"cpu": rng.choice((1, 4, 2.5, 16)), "memory": rng.choice((1.0, 0.3, 64e9, 10**12)), "share": 1.0}
        nodes[f"n{index}"] = {r: a for r, a in sizes.items() if r == "cpu" or rng.random() < 0.8} | {
            f"only {index}": 1
        }
    concurrency, window = rng.choice((1, 2, 3.5)), rng.choice((1, 2.5, 5))
    bucket = TokenBucket(rng.uniform(0.5, 4), rng.choice((1, 2.5, 4)))
    quotas = {
        "calls": Concurrency(concurrency),
        "window": PatientWindow(window, rng.uniform(0.1, 3)),
        "bucket": bucket,
    }
    records, now = [], 0.0
    for number in range(rng.randint(10, 40)):
        node = nodes[rng.choice(sorted(nodes))]
        cost = {r: some_amount(rng, node[r]) for r in rng.sample(sorted(node), rng.randint(1, 2))}
        if rng.random() < 0.4:
            low = rng.randint(1, int(node["cpu"]))
            cost["cpu"] = ElasticRange(
                low, low + rng.choice((0, 3, 30)), None, rng.choice((Amdahl(0.1), PowerLaw(0.9)))
            )
        for name, quota in quotas.items():
            if rng.random() < 0.2:
                cost[name] = some_amount(rng, quota.most)
        home = rng.choice((None, None, f"t{rng.randrange(4)}"))
        now += rng.expovariate(2)
        gap_s = now if home is None else rng.random()
        t1_s = rng.choice((0.1, 1.0, 90.0)) * rng.uniform(0.01, 1)
        records.append(Record(number, "x", cost, t1_s, home, None, gap_s, rng.choice((None, t1_s))))
    for index, (name, node) in enumerate(nodes.items()):
        everything = dict(node) if index else node | {name: quota.most for name, quota in quotas.items()}
        records.append(Record(len(records), name, everything, 1.0, None, None, LATE_S + 100 * index))
    return Trace(records, nodes), quotas


def check_books(trace, quotas, result):
    """Replays starts and ends into books in fractions."""
    costs = []
    for record, units in zip(trace.records, result.units, strict=True):
        costs.append({r: Fraction(units) if isinstance(a, ElasticRange) else read(a) for r, a in record.cost.items()})
    events = [(at, 1, index) for index, at in enumerate(result.start_s)]
    events += [(at, 0, index) for index, at in enumerate(result.end_s)]
    used, calls = {}, {"window": [], "bucket": []}
    allowed = {("calls", None): Fraction(math.floor(quotas["calls"].limit))}
    allowed |= {(r, name): read(amount) for name, node in trace.nodes.items() for r, amount in node.items()}
    for at, what, index in sorted(events):
        for resource, amount in costs[index].items():
            if resource in calls:
                if what == 1:
                    calls[resource].append((at, amount))
                continue
            place = (resource, None if resource in quotas else result.nodes[index])
            used[place] = used.get(place, Fraction(0)) + (amount if what == 1 else -amount)
            assert 0 <= used[place] <= max(allowed[place], amount)
    assert not any(used.values())
    for resource, made in calls.items():
        quota = quotas[resource]
        for index, (at, _) in enumerate(made):
            if resource == "window":
                recent = [amount for when, amount in made[: index + 1] if when + quota.per_s > at]
                assert sum(recent) <= read(quota.limit)
            else:
                for first in range(index + 1):
                    passed = quota.limit * (at - made[first][0])
                    assert sum(amount for _, amount in made[first : index + 1]) <= quota.burst + passed + 1e-6


def run(seed):
    rng = random.Random(seed)
    trace, quotas = random_trace(rng)
    result = simulate(
        trace, policy=rng.choice(POLICIES), quotas=quotas, keep_decisions=True
    )  # TraceError: one never starts
    check_books(trace, quotas, result)
    for index in range(len(trace.nodes)):
        assert result.start_s[index - len(trace.nodes)] == LATE_S + 100 * index, "something did not come back"


@pytest.mark.parametrize("block", range(3))
def test_everything_starts_within_its_bounds_and_comes_back_whole(block):
    for seed in range(100 * block, 100 * block + 100):
        run(seed)


@pytest.mark.slow  # 10,000 traces
@pytest.mark.parametrize("block", range(10))
def test_the_same_of_ten_thousand_traces(block):
    for seed in range(1000 * block, 1000 * block + 1000):
        run(seed)


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
    with pytest.raises(ValueError, match=r"0\.3001 of 'share' asked for; the largest node has 0\.3\."):
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
