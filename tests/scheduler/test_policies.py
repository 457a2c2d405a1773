"""Allotments against dynamic programming and brute force, and the limits every policy must keep."""

import itertools
import math
import random
from types import SimpleNamespace

import pytest

from mimo_hf.scheduler.core.policies import make_policy, optimal_allotment, shrinking_optima, water_fill
from mimo_hf.scheduler.core.types import Amdahl, ElasticRange, PowerLaw, Shape, TableCurve
from mimo_hf.scheduler.simulate.bounds import act_lower_bound_s, best_act_s, step_lower_bound_s
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import Record, Trace
from mimo_hf.scheduler.simulate.workloads import coding, opened, scaled

POLICIES = [
    "price",
    "price(straggler_floor_s=None)",
    "fifo(dop=3)",
    "waterfill",
    "evict",
    "evict(depth=2)",
    "srpt",
    "hrrn",
]


def entry(elastic, t1_s):
    return SimpleNamespace(shape=Shape({"cpu": elastic}), t1_s=t1_s, units=elastic.min)


def total_time(group, units):
    return sum(e.t1_s * e.shape.curve.share(m) for e, m in zip(group, units, strict=True))


def random_group(rng, convex=True):
    group = []
    for _ in range(rng.randint(1, 6)):
        low = rng.randint(1, 3)
        curve = rng.choice([Amdahl(rng.random()), PowerLaw(rng.random())])
        allowed = None
        if not convex:
            allowed = tuple(m for m in (1, 2, 4, 8) if m >= low) or (8,)
            curve = TableCurve(
                ((1, 1.0), (2, rng.uniform(0.4, 1)), (4, rng.uniform(0.2, 1)), (8, rng.uniform(0.1, 1)))
            )
        group.append(entry(ElasticRange(min(low, 8), 8, allowed, curve), rng.uniform(0.1, 50)))
        group[-1].units = group[-1].shape.low
    return group


@pytest.mark.parametrize("seed", range(300))
def test_water_fill_is_the_dynamic_programming_optimum_on_convex_curves(seed):
    rng = random.Random(seed)
    group, free = random_group(rng), rng.randint(0, 20)
    units, left = water_fill(group, free)
    assert sum(units) + left == sum(e.units for e in group) + free
    assert total_time(group, units) == pytest.approx(total_time(group, optimal_allotment(group, free)), rel=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_dynamic_programming_is_the_brute_force_optimum_on_tables(seed):
    rng = random.Random(seed)
    group, free = random_group(rng, convex=False)[:4], rng.randint(0, 12)
    total = free + sum(e.units for e in group)
    tried = [units for units in itertools.product(*(e.shape.choices() for e in group)) if sum(units) <= total]
    expected = min(total_time(group, units) for units in tried)
    assert total_time(group, optimal_allotment(group, free)) == pytest.approx(expected, rel=1e-12)
    filled, left = water_fill(group, free)
    assert left >= 0
    assert total_time(group, filled) >= expected * (1 - 1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_the_optimum_of_each_prefix_is_that_of_the_prefix_alone(seed):
    rng = random.Random(seed)
    group = random_group(rng)
    if seed % 3 == 0:  # tables somewhere behind convex curves
        group += random_group(rng, convex=False)[:2] + random_group(rng)[:1]
    free = rng.randint(0, 16)
    found = [(list(units), list(times), left) for units, times, left in shrinking_optima(group, free)]
    assert [len(units) for units, _, _ in found] == list(range(len(group), 0, -1))
    for units, times, left in found:
        prefix, dropped = group[: len(units)], group[len(units) :]
        mine = free + sum(entry.units for entry in dropped)
        assert sum(units) + left == mine + sum(entry.units for entry in prefix)
        if all(entry.shape.convex for entry in prefix):
            assert (units, left) == water_fill(prefix, mine)
        assert sum(times) == pytest.approx(total_time(prefix, optimal_allotment(prefix, mine)), rel=1e-12)
        assert sum(times) == pytest.approx(total_time(prefix, units), rel=1e-12)


def one_action(serial, t1_s=10.0, high=16):
    return Trace([Record(0, "a", {"cpu": ElasticRange(1, high, None, Amdahl(serial))}, t1_s)], {"n": {"cpu": 64}})


@pytest.mark.parametrize("policy", ["price", "waterfill", "evict", "srpt", "hrrn"])
def test_a_perfectly_parallel_action_alone_gets_all_it_can_use(policy):
    assert simulate(one_action(0.0), policy=policy).units[0] == 16


@pytest.mark.parametrize("policy", ["price", "waterfill", "evict", "srpt", "hrrn"])
def test_a_serial_action_gets_one_unit(policy):
    assert simulate(one_action(1.0, t1_s=1000.0), policy=policy).units[0] == 1


@pytest.mark.parametrize("policy", ["price", "waterfill", "evict"])
def test_inelastic_actions_start_as_under_fifo(policy):
    trace = coding(20, seed=1)
    for record in trace.records:
        record.cost = {"cpu": ElasticRange(1, 1)}
    nodes = {"n": {"cpu": 6}}
    plain = simulate(trace, nodes, "fifo1", keep_decisions=True)
    assert simulate(trace, nodes, policy, keep_decisions=True).decisions == plain.decisions


@pytest.mark.parametrize("policy", ["price", "fifo4", "waterfill", "evict"])
def test_allotments_do_not_depend_on_the_unit_of_time(policy):
    trace = coding(40, seed=2)
    tau = 30.0
    spec = f"price(straggler_floor_s={tau})" if policy == "price" else policy
    slow_spec = f"price(straggler_floor_s={8 * tau})" if policy == "price" else policy
    units = simulate(trace, {"n": {"cpu": 24}}, spec).units
    assert simulate(scaled(trace, 8.0), {"n": {"cpu": 24}}, slow_spec).units == units  # times a power of two: exact


def test_the_price_rule_needs_no_duration():
    """The stop test of Amdahl's law: T1 (1-s)/(m (m+1)) > lambda T1 s."""
    for serial, t1_s in itertools.product([0.02, 0.1, 0.3], [1.0, 7.0, 29.0]):
        busy, capacity = 40, 64
        records = [
            Record(0, "busy", {"cpu": busy}, 1000.0),
            Record(1, "a", {"cpu": ElasticRange(1, 24, None, Amdahl(serial))}, t1_s, gap_s=1.0, est_s=t1_s),
        ]
        rho = (busy + 1) / capacity
        price = 0.1 * rho / (1 - rho)
        expected = 1
        while expected < min(24, capacity - busy) and (1 - serial) / (expected * (expected + 1)) > price * serial:
            expected += 1
        assert simulate(Trace(records, {"n": {"cpu": capacity}})).units[1] == expected


def test_the_straggler_floor_stops_where_efficiency_does():
    records = [
        Record(0, "busy", {"cpu": 20}, 1.0),
        Record(1, "long", {"cpu": ElasticRange(1, 32, None, Amdahl(0.04))}, 300.0, gap_s=0.5, est_s=300.0),
        *(Record(2 + i, "short", {"cpu": 1}, 0.1, gap_s=0.6) for i in range(200)),
    ]
    units = simulate(Trace(records, {"n": {"cpu": 20}})).units[1]
    assert 1 / (1 + 0.04 * (units - 1)) >= 0.9
    assert units >= 3  # E(3) = 0.93 and E(4) = 0.89


@pytest.mark.parametrize("seed", range(40))
def test_lower_bound_optimum_and_policies_are_in_order(seed):
    rng = random.Random(seed)
    capacity = rng.randint(2, 4)
    records = [
        Record(
            i, "a", {"cpu": ElasticRange(1, rng.randint(1, capacity), None, Amdahl(rng.choice([0.0, 0.1, 0.3])))},
            rng.uniform(1, 10), gap_s=rng.choice([0.0, rng.uniform(0, 6)]), est_s=None,
        )
        for i in range(rng.randint(2, 4))
    ]  # fmt: skip
    for record in records:
        record.est_s = record.t1_s
    trace = Trace(records, {"n": {"cpu": capacity}})
    best = best_act_s(trace, capacity)
    assert act_lower_bound_s(trace, capacity) <= best + 1e-9
    for policy in POLICIES:
        assert best <= simulate(trace, policy=policy).summary()["act_mean_s"] + 1e-9


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_beats_the_bounds_of_the_coding_trace(policy):
    trace = coding(60, seed=3)
    result = simulate(trace, {"n": {"cpu": 48}}, policy)
    assert result.makespan_s >= step_lower_bound_s(trace, 48)
    released = opened(trace, seed=3, over_s=60)
    assert simulate(released, {"n": {"cpu": 48}}, policy).summary()["act_mean_s"] >= act_lower_bound_s(released, 48)


def test_an_overdue_action_goes_before_shorter_ones():
    """More short actions than one core can run would hold up the long one for ever."""
    records = [Record(0, "long", {"cpu": 1}, 3.0, gap_s=0.01, est_s=3.0)]
    records += [Record(1 + i, "short", {"cpu": 1}, 0.11, gap_s=i * 0.1, est_s=0.11) for i in range(600)]
    trace = Trace(records, {"n": {"cpu": 1}})
    patient = simulate(trace, policy="srpt(max_overtake=1000)")
    aged = simulate(trace, policy="srpt(max_overtake=2)")
    assert patient.start_s[0] > 55
    assert aged.start_s[0] < 10  # only short ones that were overdue before it go first


def test_hrrn_picks_the_highest_response_ratio():
    records = [
        Record(0, "first", {"cpu": 1}, 10.0, est_s=10.0),
        Record(1, "long", {"cpu": 1}, 8.0, gap_s=1.0, est_s=8.0),  # at 10: (9 + 8)/8 = 2.1
        Record(2, "short", {"cpu": 1}, 2.0, gap_s=7.0, est_s=2.0),  # at 10: (3 + 2)/2 = 2.5
    ]
    result = simulate(Trace(records, {"n": {"cpu": 1}}), policy="hrrn")
    assert list(result.start_s) == [0.0, 12.0, 10.0]


@pytest.mark.parametrize(
    ("spec", "words"),
    [("best", "must be one of"), ("fifo(dop=0)", "dop"), ("price(b=-1)", "`b`"), ("price(c=1)", "price"), ("fifo(dop=2", "options"),
     ("price(floor_min_eff=2)", "floor_min_eff"), ("srpt(max_overtake=0)", "max_overtake"), ("evict(depth=-1)", "depth")],
)  # fmt: skip
def test_a_wrong_policy_is_named(spec, words):
    with pytest.raises(ValueError, match=words):
        make_policy(spec)


def test_units_of_a_discrete_range_are_allowed_ones():
    trace = coding(30, seed=4)
    for record in trace.records:
        if record.kind == "reward":
            record.cost = {"cpu": ElasticRange(1, 8, (1, 2, 4, 8), Amdahl(0.05))}
    for policy in POLICIES:
        units = simulate(trace, {"n": {"cpu": 16}}, policy).units
        assert {m for m in units if m} <= {1, 2, 4, 8}


def test_curves_say_what_they_are():
    assert Amdahl(0.25).share(4) == 0.25 + 0.75 / 4
    assert PowerLaw(0.5).share(4) == 0.5
    assert TableCurve(((1, 1.0), (4, 0.5))).share(3) == 1.0
    for wrong in (
        lambda: Amdahl(1.5),
        lambda: PowerLaw(-1),
        lambda: TableCurve(((2, 1.0),)),
        lambda: Amdahl(math.nan),
    ):
        with pytest.raises(ValueError, match="must"):
            wrong()
