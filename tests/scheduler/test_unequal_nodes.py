"""Nodes that differ: no action waits for more than a node that can start it will ever have."""

import random

import pytest

from mimo_hf.scheduler import Action
from mimo_hf.scheduler.core.book import Node
from mimo_hf.scheduler.core.resources import GpuCells
from mimo_hf.scheduler.core.scheduler import Scheduler
from mimo_hf.scheduler.core.types import Amdahl, ElasticRange
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import Record, Trace

POLICIES = ("price", "fifo2", "fifo(dop=16)", "srpt", "hrrn", "waterfill", "evict", "price(straggler_floor_s=None)")
SCALES = ElasticRange(1, 32, None, Amdahl(0.0))


def record(number, cost, t1_s, **fields):
    return Record(number, "x", cost, t1_s, None, None, 0.0, t1_s, **fields)


@pytest.mark.parametrize("other", ["gpu", "memory"])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_least_units_are_some_that_an_eligible_node_has(policy, other):
    nodes = {"special": {"cpu": 2, other: 1}, "large": {"cpu": 64}}
    behind = record(1, {"cpu": 1, other: 1}, 1.0)
    result = simulate(Trace([record(0, {"cpu": SCALES, other: 1}, 100.0), behind], nodes), policy=policy)
    assert list(result.units) == [2, 0]
    assert list(result.end_s) == ([51.0, 1.0] if policy == "srpt" else [50.0, 51.0])


def test_the_same_where_learned_durations_raise_the_floor():
    core = Scheduler({"special": {"cpu": 2, "gpu": 1}, "large": {"cpu": 64}})
    cost = {"cpu": SCALES, "gpu": 1}
    now = 0.0
    for _ in range(20):
        core.submit(now, Action("x", None, cost, est_s=1.0))
        (lease,) = core.schedule(now)
        now += 1000.0
        core.finish(now, lease, 1000.0)
    assert core.durations.t1_s("x", 1.0) > 30


def test_a_node_that_joins_or_dies_changes_what_is_eligible():
    core = Scheduler({"a": {"cpu": 2, "gpu": 1}, "b": {"cpu": 64}}, policy="fifo(dop=8)")
    cost = {"cpu": SCALES, "gpu": 1}
    core.submit(0.0, Action("x", None, cost))
    assert [lease.units for lease in core.schedule(0.0)] == [2]
    core.add_node(0.0, Node("c", {"cpu": 6, "gpu": 1}))
    core.submit(0.0, Action("x", None, cost))
    assert [lease.units for lease in core.schedule(0.0)] == [6]  # of 8 asked for
    core.lose_node(0.0, "c")
    core.lose_node(0.0, "a")
    with pytest.raises(ValueError, match="got 'gpu'"):
        core.submit(0.0, Action("x", None, cost))


def test_units_are_no_more_than_the_largest_block_of_gpus():
    def core(**options):
        return Scheduler([Node("n", {"cpu": 8, "gpu": 6}, gpus=GpuCells(6)), Node("m", {"cpu": 64})], **options)

    six = core(policy="fifo(dop=6)")
    six.submit(0.0, Action("x", None, {"gpu": ElasticRange(1, 6)}))
    assert [lease.units for lease in six.schedule(0.0)] == [4]
    with pytest.raises(ValueError, match="aligned blocks, of at most 4 here"):
        core().submit(0.0, Action("x", None, {"gpu": 5}))
    with pytest.raises(ValueError, match="aligned blocks, of at most 4 here"):
        core().submit(0.0, Action("x", None, {"gpu": ElasticRange(5, 6)}))


def test_what_the_node_of_an_environment_never_has_holds_up_nobody():
    core = Scheduler({"small": {"cpu": 2, "gpu": 1}, "large": {"cpu": 8}})
    for home in "ef":
        core.submit(0.0, Action("first", None, {"gpu": 1}, env=home))
        (lease,) = core.schedule(0.0)
        core.finish(0.0, lease)
    never = core.submit(0.0, Action("never", None, {"cpu": 4}, env="e"))
    for _ in range(2):
        core.submit(0.0, Action("same node", None, {"cpu": 2}, env="f"))
        core.submit(0.0, Action("anywhere", None, {"cpu": 1}))
        leases = core.schedule(0.0)
        assert sorted(lease.action.kind for lease in leases) == ["anywhere", "same node"]
        for lease in leases:
            core.finish(0.0, lease)
    assert core.waiting() == [never]
    assert core.never_at_home(never).name == "small"
    assert core.cancel(0.0, never)


@pytest.mark.parametrize("policy", POLICIES)
def test_random_costs_on_random_nodes_all_start(policy):
    rng = random.Random(policy)
    for _ in range(25):
        nodes = {
            str(index): {r: rng.choice((1, 2, 3, 8, 64)) for r in ("cpu", "gpu", "memory") if rng.random() < 0.7}
            for index in range(rng.randint(1, 4))
        }
        records = []
        for number in range(12):
            node = rng.choice(list(nodes.values()))
            if not node:
                continue
            cost = {r: rng.randint(0, most) for r, most in node.items()}
            key = rng.choice(list(node))
            low = rng.randint(1, node[key])
            cost[key] = ElasticRange(low, low + rng.choice((0, 1, 7, 40)), None, Amdahl(rng.choice((0.0, 0.3))))
            records.append(record(number, cost, rng.choice((1.0, 50.0, 500.0))))
        simulate(Trace(records, nodes), policy=policy, debug=True)  # TraceError if one never starts
