"""Traces go out and come back, malformed lines are named, and what is simulated and drawn adds up."""

import itertools
import json
import math
from functools import partial

import numpy as np
import pytest

from mimo_hf.scheduler.core.types import Amdahl, ElasticRange, PowerLaw, TableCurve
from mimo_hf.scheduler.simulate.bounds import act_lower_bound_s, best_act_s, step_lower_bound_s
from mimo_hf.scheduler.simulate.export import chrome_trace, gantt, lanes, run_summary, width
from mimo_hf.scheduler.simulate.service_calls import simulate_services
from mimo_hf.scheduler.simulate.simulator import recorded, simulate
from mimo_hf.scheduler.simulate.trace import (
    Record,
    Trace,
    parse_trace,
    read_trace,
    record_as_json,
    trace_lines,
    write_trace,
)
from mimo_hf.scheduler.simulate.workloads import as_pods, coding, deepsearch, poisson, with_noise

from .conftest import HEADER


def test_a_trace_survives_writing_and_reading(tmp_path):
    costs = [
        {"cpu": 1, "memory": 0.5},
        {"cpu": ElasticRange(1, 8, (1, 2, 8), PowerLaw(0.5))},
        {"cpu": ElasticRange(2, 3, None, None)},
        {"cpu": ElasticRange(1, 4, None, TableCurve(((1, 1.0), (4, 0.5))))},
    ]
    records = [Record(i, "a", cost, 1.5 + i, f"t{i % 2}", "task", 0.25, 2.0, i) for i, cost in enumerate(costs)]
    trace = Trace(records, {"n": {"cpu": 4, "memory": 9}}, {"seed": 3})
    write_trace(tmp_path / "x.jsonl", trace)
    assert read_trace(tmp_path / "x.jsonl") == trace


def test_a_recorded_run_replays_exactly():
    trace = coding(30, seed=6)
    run = recorded(trace, simulate(trace, {"n": {"cpu": 20}}, keep_decisions=True))
    run.nodes = {"n": {"cpu": 20}}
    lines = []
    for record in run.records:
        shown = record_as_json(record)
        del shown["t1_s"]  # what a live run cannot know
        shown.pop("gap_s", None)
        lines.append(json.dumps(shown))
    again = simulate(parse_trace([json.dumps({"format": "mimo-trace", "version": 1, "nodes": run.nodes}), *lines]))
    first = [record.start_s for record in run.records]
    assert list(again.start_s) == pytest.approx(first, rel=1e-6, abs=1e-6)
    assert list(again.units) == [record.units or 0 for record in run.records]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "must be JSON: Expecting"),
        ("[1]", "JSON object"),
        ("[" * 100_000, "must be JSON"),
        ('{"id": 0, "kind": "a", "t1_s": 1}', "`cost` must be given"),
        ('{"id": 0, "t1_s": 1}', "`kind`, `cost` must be given"),
        ('{"id": null, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1}', "`id` must be given"),
        (
            '{"id": "x", "kind": "a", "cost": {"cpu": 1}, "t1_s": 1}',
            "`id` must be a whole number from 0 to .*; got 'x'",
        ),
        ('{"id": 7, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1}', "got 7, that of line 2"),
        ('{"id": 0, "kind": 5, "cost": {"cpu": 1}, "t1_s": 1}', "`kind` must be a word .*; got 5"),
        ('{"id": 0, "kind": "a", "cost": 1, "t1_s": 1}', "`cost` must be an amount by resource"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": true}, "t1_s": 1}', "must be a number"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1}}, "t1_s": 1}', "one without max"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2, "most": 3}}, "t1_s": 1}', "got most"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2, "curve": 5}}, "t1_s": 1}', "`curve` must be"),
        (
            '{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2, "curve": {"amdahl": "x"}}}, "t1_s": 1}',
            "`curve` must be one that can be made",
        ),
        (
            '{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2, "allowed": 2}}, "t1_s": 1}',
            "`allowed` must be",
        ),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "start_s": 3, "end_s": 2}', "`end_s` must not be before"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1, "cores": 3}', "`cores` must be a list"),
        (
            '{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1, "priority": 0.5}',
            "`priority` must be a whole number",
        ),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1": 1}', "`t1` must be a field of a trace; is t1_s meant"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}}', "t1_s"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": -1}', "`t1_s` must be"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": NaN}', "`t1_s` must be"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": "x"}, "t1_s": 1}', "must be a number"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 3, "max": 2}}, "t1_s": 1}', "ElasticRange"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2, "curve": {"log": 1}}}, "t1_s": 1}', "amdahl"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1, "colour": 1}', "`colour` must be a field of a trace"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_line(tmp_path, line, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{HEADER}\n{{"id": 7, "kind": "a", "cost": {{"cpu": 1}}, "t1_s": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"bad\.jsonl:3: .*{words}"):
        read_trace(path)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [("5", "`nodes` must be like"), ('{"n": {"cpu": "x"}}', "`nodes` must be"), ('{"n": 4}', "`nodes` must be")],
)
def test_nodes_that_are_none_are_named_with_the_first_line(nodes, words):
    with pytest.raises(ValueError, match=rf"trace:1: {words}"):
        parse_trace([f'{{"format": "mimo-trace", "version": 1, "nodes": {nodes}}}'])


def test_actions_that_wait_for_ever_are_an_error(monkeypatch):
    from mimo_hf.scheduler.core.scheduler import Scheduler

    monkeypatch.setattr(Scheduler, "schedule", lambda self, now: [])
    trace = parse_trace([HEADER, '{"id": 3, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1}'])
    with pytest.raises(ValueError, match="trace:2: 1 of 1 actions never start, this one first: it costs cpu"):
        simulate(trace)


def test_a_trace_without_its_header_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 0}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl:1: `format` must be"):
        read_trace(tmp_path / "x.jsonl")
    (tmp_path / "y.jsonl").write_text("")
    with pytest.raises(ValueError, match="empty"):
        read_trace(tmp_path / "y.jsonl")


def test_workloads_are_seeded():
    for make in (coding, deepsearch):
        assert list(trace_lines(make(20, seed=1))) == list(trace_lines(make(20, seed=1)))
        assert list(trace_lines(make(20, seed=1))) != list(trace_lines(make(20, seed=2)))


def test_pods_hold_their_cores_from_first_to_last_action():
    trace = coding(30, seed=1)
    result = simulate(as_pods(trace, 4), {"n": {"pod": 5}}, "fifo1", held=("pod",), first_overhead_s=5.0, debug=True)
    spans = {}
    for index, record in enumerate(trace.records):
        first, last = spans.get(record.trajectory, (math.inf, 0.0))
        spans[record.trajectory] = min(first, result.start_s[index]), max(last, result.end_s[index])
    changes = sorted([(a, 1) for a, _ in spans.values()] + [(b, -1) for _, b in spans.values()])
    level = most = 0
    for _, change in changes:
        level += change
        most = max(most, level)
    assert most == 5


def test_noise_changes_estimates_and_nothing_else():
    noisy = with_noise(coding(20), 0.5, seed=1)
    ratios = [math.log(record.est_s / record.t1_s) for record in noisy.records]
    assert 0.4 < (sum(r * r for r in ratios) / len(ratios)) ** 0.5 < 0.6
    assert [r.t1_s for r in noisy.records] == [r.t1_s for r in coding(20).records]


def erlang_c_wait(servers, load, mean_s):
    """Mean wait of M/M/c."""
    offered = servers * load
    last = offered**servers / math.factorial(servers) / (1 - load)
    waits = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    return waits * mean_s / (servers * (1 - load))


@pytest.mark.slow
def test_a_million_poisson_actions_wait_as_erlang_c_says():
    trace = poisson(1_000_000, rate=8 * 0.8, seed=0, units=8)
    result = simulate(trace, policy="fifo1")
    wait = math.fsum(result.start_s) - math.fsum(result.submit_s)
    assert wait / 1_000_000 == pytest.approx(erlang_c_wait(8, 0.8, 1.0), rel=0.03)


def test_lanes_never_overlap(run_file):
    ran = read_trace(run_file).records
    placed = lanes(ran)
    for lane in {lane for taken in placed.values() for lane in taken}:
        mine = sorted((r.start_s, r.end_s) for r in ran if lane in placed[r.id])
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(mine))
    assert all(len(placed[r.id]) == width(r) for r in ran)


def test_chrome_events_are_complete_and_flows_follow_trajectories(run_file):
    trace = read_trace(run_file)
    events = chrome_trace(trace)["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == sum(width(record) for record in trace.records)
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in complete)
    total = sum(event["dur"] for event in complete) / 1e6
    assert total == pytest.approx(sum((r.end_s - r.start_s) * width(r) for r in trace.records), rel=1e-9)
    starts = {event["id"]: event["ts"] for event in events if event["ph"] == "s"}
    ends = {event["id"]: event["ts"] for event in events if event["ph"] == "f"}
    assert len(starts) == len(trace.records) - 12
    assert all(starts[flow] <= ends[flow] for flow in ends)


def test_the_chart_holds_each_action_and_what_they_add_up_to(run_file):
    records = read_trace(run_file).records
    over, under = gantt(read_trace(run_file)).axes
    boxes = [path.get_extents() for path in under.collections[0].get_paths()]
    spans = [(r.start_s, r.end_s) for r in records for _ in range(width(r))]
    np.testing.assert_allclose(sorted((box.x0, box.x1) for box in boxes), sorted(spans))
    assert [text.get_text() for text in under.get_yticklabels()][:2] == ["local 0", "local 1"]
    in_use, waiting = (dict(zip(*line.get_data(), strict=True)) for line in over.lines)
    for at, level in in_use.items():
        assert level == sum(width(r) for r in records if r.start_s <= at < r.end_s)
    for at, level in waiting.items():
        assert level == sum(r.submit_s <= at < r.start_s for r in records)


def test_an_unrun_trace_cannot_be_reported(tmp_path):
    write_trace(tmp_path / "x.jsonl", coding(2))
    with pytest.raises(ValueError, match="Run it first"):
        run_summary(read_trace(tmp_path / "x.jsonl"))


def test_amdahl_in_a_trace_is_the_default_curve():
    (record,) = parse_trace(
        [HEADER, '{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2}}, "t1_s": 1}']
    ).records
    assert record.cost["cpu"].curve == Amdahl(0.05)


def test_nothing_has_no_statistics_but_can_be_simulated():
    nothing = Trace([], {"n": {"cpu": 1}})
    result = simulate(nothing)
    assert (result.makespan_s, result.act_s(), recorded(nothing, result).records) == (0.0, [], [])
    for read in (result.summary, partial(act_lower_bound_s, nothing, 1), partial(best_act_s, nothing, 1)):
        with pytest.raises(ValueError, match=r"without actions|1 to 5 actions"):
            read()
    assert step_lower_bound_s(nothing, 1) == 0.0
    for draw in (run_summary, chrome_trace):
        with pytest.raises(ValueError, match="no start_s and end_s"):
            draw(nothing)
    served = simulate_services([], capacity=4.0)
    assert (served.act_s, served.end_s, served.switches) == ([], 0.0, 0)
