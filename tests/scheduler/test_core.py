"""Invariants of the core over random event sequences, checked from the leases it gives out alone."""

import math
import random
import subprocess
import sys
import weakref
from collections import Counter

import pytest

from mimo_hf.scheduler.core.book import Node
from mimo_hf.scheduler.core.durations import DurationModel
from mimo_hf.scheduler.core.resources import Concurrency, Cores, GpuCells, TokenBucket
from mimo_hf.scheduler.core.scheduler import Scheduler
from mimo_hf.scheduler.core.types import Action, Amdahl, ElasticRange, Shape
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import Record, Trace

POLICIES = ["price", "fifo1", "fifo(dop=4)", "waterfill", "evict", "srpt(max_overtake=3)", "hrrn"]


def action(cost, kind="a", **options):
    return Action(kind, None, cost, **options)


def random_action(rng, number):
    cost = {
        "cpu": rng.choice(
            [1, 2, ElasticRange(1, rng.randint(1, 6), None, Amdahl(rng.random())), ElasticRange(2, 4, (2, 4))]
        )
    }
    if rng.random() < 0.3:
        cost["memory"] = rng.uniform(0.5, 4)
    if rng.random() < 0.2:
        cost["api"] = 1
    if rng.random() < 0.15:
        cost = {"gpu": rng.choice([1, 2, ElasticRange(1, 4, (1, 2, 4))])}
    options = {"est_s": rng.uniform(0.1, 60)} if rng.random() < 0.8 else {}
    if rng.random() < 0.2:
        cost["disk"] = 1.0
        options["trajectory"] = f"t{rng.randint(0, 5)}"
    return action(cost, rng.choice("abc"), priority=rng.choice([0, 0, 0, 1]), task=rng.choice("xy"), **options)


class Watcher:
    """Keeps its own book of what is in use."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.used = {}
        self.cores = set()

    def start(self, lease):
        for resource, amount in lease.resources.items():
            if resource in ("api", "disk"):
                continue
            where = (lease.node.name, resource)
            self.used[where] = self.used.get(where, 0) + amount
            assert self.used[where] <= self.capacity[lease.node.name][resource] + 1e-9
        for unit in [*(("core", c) for c in lease.cores), *(("gpu", g) for g in lease.gpus)]:
            identity = (lease.node.name, unit)
            assert identity not in self.cores
            self.cores.add(identity)
        if "cpu" in lease.resources and lease.node.name == "left":
            assert len(lease.cores) == lease.resources["cpu"]

    def end(self, lease):
        for resource, amount in lease.resources.items():
            if resource not in ("api", "disk"):
                self.used[lease.node.name, resource] -= amount
        self.cores -= {(lease.node.name, ("core", c)) for c in lease.cores}
        self.cores -= {(lease.node.name, ("gpu", g)) for g in lease.gpus}


def run_randomly(seed):
    """Random submits, ends, cancels, time-outs and a lost node. Returns the decisions and how each action ended."""
    rng = random.Random(seed)
    capacity = {
        "left": {"cpu": 8, "memory": 8.0, "disk": 2.0, "gpu": 4},
        "right": {"cpu": 5, "memory": 16.0, "disk": 3.0},
    }
    core = Scheduler(
        [
            Node("left", capacity["left"], Cores([range(4), range(4, 8)]), GpuCells(4)),
            Node("right", capacity["right"]),
        ],
        {"api": rng.choice([Concurrency(2), TokenBucket(3.0, 2)])},
        policy=POLICIES[seed % len(POLICIES)],
        held=["disk"],
        fair_tasks=seed % 3 == 0,
        debug=True,
    )
    watcher = Watcher(capacity)
    running, fate, decisions, waiting = [], {}, [], {}
    now, lost = 0.0, False
    users = {}
    todo = 40
    while todo or running or core.queued:
        now += rng.expovariate(1.0)
        roll = rng.random()
        if todo and roll < 0.5:
            todo -= 1
            entry = core.submit(now, random_action(rng, todo))
            waiting[entry.seq] = entry
            if entry.home:
                users[entry.home] = users.get(entry.home, 0) + 1
        elif running and roll < 0.9:
            lease = running.pop(rng.randrange(len(running)))
            watcher.end(lease)
            assert core.finish(now, lease, rng.uniform(0.1, 5))
            assert not core.finish(now, lease)
            assert fate.setdefault(lease.seq, "done") == "done"
            _leave(core, now, lease.entry.home, users)
        elif waiting and roll < 0.95:
            entry = waiting.pop(rng.choice(sorted(waiting)))
            if core.cancel(now, entry):
                assert entry.seq not in fate
                fate[entry.seq] = "cancelled"
                _leave(core, now, entry.home, users)
        elif not lost and roll > 0.99:
            lost = True
            gone, failed, _ = core.lose_node(now, "right")
            for lease in gone:
                running.remove(lease)
                watcher.end(lease)
                fate[lease.seq] = "lost"
                users[lease.entry.home] = users.get(lease.entry.home, 1) - 1
            for entry, _ in failed:
                fate[entry.seq] = "unsatisfiable"
                users[entry.home] = users.get(entry.home, 1) - 1
        for lease in core.schedule(now):
            watcher.start(lease)
            waiting.pop(lease.seq, None)
            running.append(lease)
            decisions.append((now, lease.seq, lease.node.name, lease.units, lease.cores, lease.gpus))
    for home in list(users):
        core.close(now, home)
    for node in core.nodes.values():
        assert node.free == node.capacity
    assert core.leases == {}
    assert watcher.cores == set()
    assert sorted(fate) == list(range(1, 41))
    return decisions, fate


def _leave(core, now, home, users):
    if home:
        users[home] -= 1
        if not users[home]:
            core.close(now, home)


@pytest.mark.parametrize("block", range(21))
def test_no_lease_leaks_and_no_unit_is_leased_twice(block):
    for seed in range(block * 50, block * 50 + 50):
        run_randomly(seed)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_events_give_the_same_decisions(seed):
    assert run_randomly(seed) == run_randomly(seed)


@pytest.mark.parametrize("policy", ["price", "fifo(dop=2)", "waterfill", "evict"])
def test_equal_actions_start_in_order_and_no_unit_idles_while_the_head_fits(policy):
    rng = random.Random(7)
    core = Scheduler({"n": {"cpu": 6}}, policy=policy)
    cost = {"cpu": ElasticRange(1, 4, None, Amdahl(0.1))}
    now, running, started = 0.0, [], []
    for _ in range(400):
        now += rng.expovariate(1)
        if rng.random() < 0.5:
            core.submit(now, action(cost, est_s=1.0))
        elif running:
            core.finish(now, running.pop(rng.randrange(len(running))))
        for lease in core.schedule(now):
            running.append(lease)
            started.append(lease.seq)
        if core.queued:
            head = core.waiting()[0]
            assert core.free_of("cpu") < core.policy.floor(head, 6)
    assert started == sorted(started)


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        ({"cpu": 9}, "largest node has, 8"),
        ({"cpu": ElasticRange(9, 12)}, "largest node has, 8"),
        ({"tpu": 1}, "known resources: .*cpu.*got 'tpu'"),
        ({"cpu": math.nan}, "must be a number"),
        ({"cpu": -1}, "must be a number"),
        ({"cpu": "2"}, "must be a number"),
        ({"cpu": ElasticRange(1, 2), "gpu": ElasticRange(1, 2)}, "one ElasticRange"),
        ({"cpu": 8, "gpu": 2}, "no single node"),
        ({"api": 5}, "allows at once, 2;"),
        ({"api": ElasticRange(1, 2)}, "cannot be elastic"),
    ],
)
def test_impossible_requests_are_refused_at_submit(cost, words):
    core = Scheduler({"a": {"cpu": 8}, "b": {"cpu": 4, "gpu": 2}}, {"api": Concurrency(2)})
    with pytest.raises(ValueError, match=words):
        core.submit(0.0, action(cost))
    assert core.queued == 0


@pytest.mark.parametrize("wrong", [(3, 2), (0, 1), (1.5, 2), (1, 8, (1, 16)), (1, 8, ()), (1, 8, (4, 2))])
def test_an_impossible_range_is_refused(wrong):
    with pytest.raises(ValueError, match="ElasticRange"):
        ElasticRange(*wrong)


def test_an_action_that_does_not_fit_holds_up_only_what_shares_its_resource():
    core = Scheduler({"n": {"cpu": 4, "gpu": 1}}, policy="fifo1")
    for cost in ({"cpu": 3}, {"cpu": 3}, {"cpu": 1}, {"gpu": 1}):
        core.submit(0.0, action(cost))
    assert [lease.seq for lease in core.schedule(0.0)] == [1, 4]  # 3 would fit, but must not delay 2


def test_actions_of_an_environment_stay_on_its_node():
    core = Scheduler({"a": {"cpu": 2}, "b": {"cpu": 2}}, policy="fifo1")
    core.submit(0.0, action({"cpu": 1}, env="e"))
    (first,) = core.schedule(0.0)
    for _ in range(3):
        core.submit(1.0, action({"cpu": 1}, env="e"))
    started = core.schedule(1.0)
    assert [lease.node for lease in started] == [first.node]
    core.submit(2.0, action({"cpu": 2}))
    (other,) = core.schedule(2.0)
    assert other.node is not first.node


def test_a_trajectory_that_holds_memory_is_not_held_up_by_one_that_waits_for_it():
    core = Scheduler({"n": {"cpu": 4, "memory": 10}}, policy="fifo1", held=["memory"], debug=True)
    for trajectory in ("t0", "t1", "t0"):
        core.submit(0.0, action({"cpu": 1, "memory": 8}, trajectory=trajectory))
    started = core.schedule(0.0)
    assert [lease.seq for lease in started] == [1, 3]
    for lease in started:
        core.finish(1.0, lease)
    assert core.schedule(1.0) == []
    core.close(2.0, "t0")
    assert [lease.seq for lease in core.schedule(2.0)] == [2]


def test_actions_of_several_trajectories_keep_their_order_on_one_node():
    core = Scheduler({"n": {"cpu": 1, "disk": 10}}, policy="fifo1", held=["disk"], debug=True)
    for trajectory in "abba":  # the first of each binds its home to the node
        core.submit(0.0, action({"cpu": 1, "disk": 1}, trajectory=trajectory))
    started, now = [], 0.0
    while leases := core.schedule(now):
        started += [lease.seq for lease in leases]
        now += 1.0
        core.finish(now, leases[0])
    assert started == [1, 2, 3, 4]


@pytest.mark.parametrize("scarce", [{"cpu": 4, "memory": 4}, {"cpu": 4, "api": 2}, {"cpu": 4, "memory": 4, "api": 1}])
def test_an_action_of_several_scarce_resources_is_not_overtaken_for_ever(scarce):
    """Each of them comes free now and then, but not together unless those who wait behind leave some."""
    core = Scheduler({"n": {"cpu": 4, "memory": 4}}, {"api": Concurrency(2)}, policy="fifo1", debug=True)
    now, running, large = 0.0, [], None
    for step in range(2000):
        waiting = Counter(next(iter(entry.action.cost)) for entry in core.waiting() if len(entry.action.cost) == 1)
        for resource in scarce:
            for _ in range(4 - waiting[resource]):
                core.submit(now, action({resource: 1}))
        if step == 20:
            large = core.submit(now, action(scarce))
        for lease in core.schedule(now):
            if lease.entry is large:
                return
            running.append((now + 1 + 0.1 * (lease.seq % 7), lease.seq, lease))
        running.sort(reverse=True)
        now, _, lease = running.pop()
        core.finish(now, lease)
    pytest.fail(f"{scarce} never started")


def test_who_waits_for_held_memory_does_not_hold_up_those_who_have_it():
    core = Scheduler({"n": {"cpu": 2, "memory": 10}}, policy="fifo1", held=["memory"], debug=True)
    core.submit(0.0, action({"cpu": 1, "memory": 8}, trajectory="a"))
    (first,) = core.schedule(0.0)
    core.submit(0.0, action({"cpu": 2, "memory": 8}, trajectory="b"))
    now = 0.0
    for _ in range(300):  # many more than may overtake
        now += 1.0
        core.finish(now, first)
        core.submit(now, action({"cpu": 1, "memory": 8}, trajectory="a"))
        (first,) = core.schedule(now)
    core.finish(now, first)
    core.close(now, "a")
    assert [lease.action.trajectory for lease in core.schedule(now)] == ["b"]


@pytest.mark.parametrize("policy", ["fifo1", "srpt", "hrrn"])
def test_what_was_cancelled_or_has_ended_is_forgotten(policy):
    """A long wait at the head of the queue must not keep those alive who left behind it."""
    core = Scheduler({"n": {"cpu": 2}}, policy=policy)
    core.submit(0.0, action({"cpu": 2}, est_s=1.0))
    (busy,) = core.schedule(0.0)
    core.submit(0.0, action({"cpu": 2}, est_s=1000.0))
    gone = []
    for number in range(500):
        work = lambda: None  # noqa: E731  something a weak reference can watch
        gone.append(weakref.ref(work))
        entry = core.submit(1.0, Action("a", work, {"cpu": 1}, est_s=1.0, env=f"e{number}"))
        core.schedule(1.0)
        assert core.cancel(1.0, entry)
        core.close(1.0, f"e{number}")
    del entry, work
    assert sum(reference() is not None for reference in gone) < 200
    assert not core._homeless
    core.finish(2.0, busy)
    assert len(core.schedule(2.0)) == 1


def test_fair_tasks_share_units_evenly():
    core = Scheduler({"n": {"cpu": 4}}, policy="fifo1", fair_tasks=True)
    for task in "aaaaaabb":
        core.submit(0.0, action({"cpu": 1}, task=task))
    assert sorted(lease.action.task for lease in core.schedule(0.0)) == ["a", "a", "b", "b"]


def test_priority_goes_first():
    core = Scheduler({"n": {"cpu": 1}}, policy="fifo1")
    core.submit(0.0, action({"cpu": 1}))
    core.submit(0.0, action({"cpu": 1}, priority=5))
    assert [lease.seq for lease in core.schedule(0.0)] == [2]


def test_a_clock_that_jumps_back_stands_still():
    core = Scheduler({"n": {"cpu": 1}}, {"api": TokenBucket(1.0, 1)}, debug=True)
    core.submit(100.0, action({"cpu": 1, "api": 1}))
    (lease,) = core.schedule(100.0)
    core.submit(50.0, action({"cpu": 1, "api": 1}))
    core.finish(40.0, lease, 1.0)
    assert core.schedule(40.0) == []  # the bucket is empty, and no time has passed
    assert core.next_ready_s() == 101.0
    assert len(core.schedule(101.0)) == 1


def test_a_lost_node_fails_what_no_other_can_run():
    core = Scheduler({"big": {"cpu": 8}, "small": {"cpu": 2}}, policy="fifo1", debug=True)
    core.submit(0.0, action({"cpu": 8}))
    core.schedule(0.0)
    core.submit(0.0, action({"cpu": 5}))
    core.submit(0.0, action({"cpu": 2}))
    lost, failed, homes = core.lose_node(1.0, "big")
    assert [lease.seq for lease in lost] == [1]
    assert [(entry.seq, type(error).__name__) for entry, error in failed] == [(2, "Unsatisfiable")]
    assert [lease.seq for lease in core.schedule(1.0)] == [3]
    assert homes == []


def test_estimates_follow_what_actions_took():
    model = DurationModel(decay=0.2)
    shape = Shape({"cpu": ElasticRange(1, 8, None, Amdahl(0.0))})
    assert model.t1_s("a", None) == 1.0
    for _ in range(50):
        model.observe("a", None, shape, 4, 5.0)  # 20 core-seconds
        model.observe("b", 10.0, shape, 1, 30.0)  # three times the estimate
    assert model.t1_s("a", None) == pytest.approx(20.0)
    assert model.t1_s("b", 4.0) == pytest.approx(12.0)


def test_the_serial_share_is_fitted_from_two_degrees_of_parallelism():
    model = DurationModel()
    shape = Shape({"cpu": ElasticRange(1, 8, None, None)})
    true = Amdahl(0.3)
    model.observe("a", 10.0, shape, 2, 10 * true.share(2))
    assert model.curve("a", 10.0, shape) == Amdahl(0.05)
    model.observe("a", 20.0, shape, 8, 20 * true.share(8))
    assert model.curve("a", 10.0, shape).serial == pytest.approx(0.3)


def test_littles_law_holds():
    rng = random.Random(0)
    records = [Record(i, "a", {"cpu": 1}, rng.expovariate(1), gap_s=i * 0.3) for i in range(3000)]
    result = simulate(Trace(records, {"n": {"cpu": 4}}))
    acts = result.act_s()
    events = sorted([(t, 1) for t in result.submit_s] + [(t, -1) for t in result.end_s])
    area, inside, last = 0.0, 0, 0.0
    for at, change in events:
        area += inside * (at - last)
        inside, last = inside + change, at
    span = result.makespan_s
    assert area / span == pytest.approx(len(acts) / span * (sum(acts) / len(acts)), rel=1e-9)


def test_one_server_is_lindleys_recursion():
    rng = random.Random(1)
    records, now = [], 0.0
    for i in range(2000):
        now += rng.expovariate(0.9)
        records.append(Record(i, "a", {"cpu": 1}, rng.expovariate(1), gap_s=now))
    result = simulate(Trace(records, {"n": {"cpu": 1}}), policy="fifo1")
    wait = 0.0
    for i, record in enumerate(records):
        if i:
            wait = max(0.0, wait + records[i - 1].t1_s - (record.gap_s - records[i - 1].gap_s))
        assert result.start_s[i] - result.submit_s[i] == pytest.approx(wait, abs=1e-6)


DAMAGE = """
from mimo_hf.scheduler.core.scheduler import Scheduler
from mimo_hf.scheduler.core.types import Action

for damage in ("node.left['cpu'] += 10**12", "node.left['cpu'] = -(10**12)", "leases[0].cores = leases[1].cores = (0,)"):
    core = Scheduler({"n": {"cpu": 4}})
    for _ in range(2):
        core.submit(0.0, Action("a", None, {"cpu": 1}))
    leases = core.schedule(0.0)
    node = leases[0].node
    core.check()
    exec(damage)
    try:
        core.check()
    except AssertionError as error:
        print(error)
"""


@pytest.mark.parametrize("options", [[], ["-O"]])
def test_a_book_that_does_not_add_up_is_told_also_without_asserts(options):
    run = subprocess.run([sys.executable, *options, "-c", DAMAGE], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "cpu of n: 2.0 used + 3.0 free is not 4.0",
        "cpu of n is overdrawn: -1.0",
        "a core of n is in two leases",
    ]
