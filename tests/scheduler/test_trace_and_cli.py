"""Traces go out and come back, malformed lines are named, and the command does what its help says."""

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mimo_hf.cli import main
from mimo_hf.scheduler.core.types import Amdahl, ElasticRange, PowerLaw, TableCurve
from mimo_hf.scheduler.simulate.bounds import act_lower_bound_s, best_act_s, step_lower_bound_s
from mimo_hf.scheduler.simulate.export import chrome_trace, gantt, lanes, run_summary, width
from mimo_hf.scheduler.simulate.service_calls import simulate_services
from mimo_hf.scheduler.simulate.simulator import recorded, simulate
from mimo_hf.scheduler.simulate.trace import (
    FIELDS,
    SAMPLE,
    Record,
    Trace,
    TraceError,
    parse_trace,
    read_trace,
    record_as_json,
    trace_lines,
    write_trace,
)
from mimo_hf.scheduler.simulate.workloads import as_pods, coding, deepsearch, poisson, with_noise

HEADER = '{"format": "mimo-trace", "version": 1, "nodes": {"n": {"cpu": 4}}}'


@pytest.fixture
def run_file(tmp_path):
    trace = coding(12, seed=5, cores=8)
    write_trace(tmp_path / "run.jsonl", recorded(trace, simulate(trace, keep_decisions=True)))
    return tmp_path / "run.jsonl"


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
        ("{", "this is not JSON: Expecting"),
        ("[1]", "JSON object"),
        ("[" * 100_000, "this is not JSON"),
        ('{"id": 0, "kind": "a", "t1_s": 1}', "'cost' is missing"),
        ('{"id": 0, "t1_s": 1}', "'kind', 'cost' are missing"),
        ('{"id": null, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1}', "'id' is missing"),
        (
            '{"id": "x", "kind": "a", "cost": {"cpu": 1}, "t1_s": 1}',
            "`id` must be a whole number from 0 to .*; got 'x'",
        ),
        ('{"id": 7, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1}', "`id` 7 is that of line 2 already"),
        ('{"id": 0, "kind": 5, "cost": {"cpu": 1}, "t1_s": 1}', "`kind` must be a word .*; got 5"),
        ('{"id": 0, "kind": "a", "cost": 1, "t1_s": 1}', "`cost` must be an amount by resource"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": true}, "t1_s": 1}', "must be a number"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1}}, "t1_s": 1}', "a range without max"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2, "most": 3}}, "t1_s": 1}', "a range with most"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2, "curve": 5}}, "t1_s": 1}', "`curve` must be"),
        (
            '{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2, "curve": {"amdahl": "x"}}}, "t1_s": 1}',
            "can't be",
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
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1": 1}', "unknown field t1; is t1_s meant"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}}', "t1_s"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": -1}', "`t1_s` must be"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": NaN}', "`t1_s` must be"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": "x"}, "t1_s": 1}', "must be a number"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 3, "max": 2}}, "t1_s": 1}', "ElasticRange"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2, "curve": {"log": 1}}}, "t1_s": 1}', "amdahl"),
        ('{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1, "colour": 1}', "unknown field colour"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_line(tmp_path, line, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{HEADER}\n{{"id": 7, "kind": "a", "cost": {{"cpu": 1}}, "t1_s": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"bad\.jsonl:3: .*{words}"):
        read_trace(path)


def test_all_bad_lines_are_told_and_ten_are_shown(tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    good = '{"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1}'
    path.write_text("\n".join([HEADER, good, *('{"id": 1}' for _ in range(12))]) + "\n")
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert [problem.split(":")[1] for problem in caught.value.problems] == [str(line) for line in range(3, 15)]
    assert str(caught.value).splitlines()[-1] == "and 2 more."
    assert len(str(caught.value).splitlines()) == 11
    for job in ("simulate", "replay", "report"):
        assert main(["schedule", job, str(path)]) == 2
        *lines, last = capsys.readouterr().err.splitlines()
        assert len(lines) == 11
        assert lines[0].startswith(f"{path}:3: ")
        assert last.startswith(f"mimo-hf schedule {job}: error: {path} has 12 lines")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [("5", "`nodes` must be like"), ('{"n": {"cpu": "x"}}', "`nodes` must be"), ('{"n": 4}', "`nodes` must be")],
)
def test_nodes_that_are_none_are_named_with_the_first_line(nodes, words):
    with pytest.raises(ValueError, match=rf"trace:1: {words}"):
        parse_trace([f'{{"format": "mimo-trace", "version": 1, "nodes": {nodes}}}'])


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        ('{"gpu": 1}', "there is no resource 'gpu'; known are: cpu"),
        ('{"cpu": 5}', "5 of 'cpu' asked for; the largest node has 4"),
        ('{"cpu": {"min": 6, "max": 8}}', "6 of 'cpu' asked for"),
    ],
)
def test_what_no_node_can_meet_is_named_with_file_and_line(tmp_path, capsys, cost, words):
    path = tmp_path / "big.jsonl"
    path.write_text(f'{HEADER}\n\n{{"id": 7, "kind": "a", "cost": {cost}, "t1_s": 1}}\n')
    with pytest.raises(TraceError, match=rf"big\.jsonl:3: {words}"):
        simulate(read_trace(path))
    for arguments in (["simulate", str(path)], ["check", str(path)]):
        assert main(["schedule", *arguments]) == {"simulate": 2, "check": 1}[arguments[0]]
        error = capsys.readouterr().err
        assert f"{path}:3: {words}" in error
        assert error.count("\n") == 1
    with pytest.raises(TraceError, match=f"trace, action 7: {words}"):
        simulate(Trace([replace(read_trace(path).records[0], line=0)], {"n": {"cpu": 4}}))


def test_a_trace_without_actions_is_an_error_in_one_line(tmp_path, capsys):
    path = tmp_path / "none.jsonl"
    path.write_text(HEADER + "\n")
    for job in ("simulate", "replay", "report", "check"):
        assert main(["schedule", job, str(path)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err == (
            f"mimo-hf schedule {job}: error: {path} has a header and no actions; each further line is one.\n"
        )
    with pytest.raises(ValueError, match="without actions"):
        simulate(read_trace(path)).summary()


def test_actions_that_wait_for_ever_are_an_error(monkeypatch):
    from mimo_hf.scheduler.core.scheduler import Scheduler

    monkeypatch.setattr(Scheduler, "schedule", lambda self, now: [])
    trace = parse_trace([HEADER, '{"id": 3, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1}'])
    with pytest.raises(ValueError, match="trace:2: 1 of 1 actions never start, this one first: it costs cpu"):
        simulate(trace)


def test_check_says_what_is_in_a_trace(run_file, tmp_path, capsys):
    assert main(["schedule", "check", str(run_file)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert re.search(
        r"\d+ actions \(env \d+, reward 12\), 12 trajectories, \d+ recorded; nodes: local \(cpu 8\)", output.out
    )
    assert main(["schedule", "check", str(run_file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kinds"]["reward"] == found["trajectories"] == 12
    assert found["problems"] == []
    bad = tmp_path / "bad.jsonl"
    bad.write_text(f"{HEADER}\n{{}}\n[]\n")
    assert main(["schedule", "check", str(bad), "--json"]) == 1
    assert [problem.split(":")[1] for problem in json.loads(capsys.readouterr().out)["problems"]] == ["2", "3"]


def test_the_sample_of_the_help_and_of_the_guide_runs(tmp_path, capsys):
    path = tmp_path / "sample.jsonl"
    path.write_text(SAMPLE)
    assert main(["schedule", "check", str(path)]) == 0
    assert main(["schedule", "simulate", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["actions"] == 3
    guide = (Path(__file__).parents[2] / "mimo_hf/scheduler/README.md").read_text()
    assert SAMPLE in guide
    table = guide.partition("| field |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[1:] if "|" in line)))
    assert named == set(FIELDS)


def test_a_trace_without_its_header_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 0}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl:1: the first line"):
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


def test_report_writes_page_chart_and_perfetto_trace(run_file, tmp_path, capsys):
    page, chart, chrome = tmp_path / "run.html", tmp_path / "run.svg", tmp_path / "run.json"
    options = ["--out", page, "--plot", chart, "--chrome", chrome]
    assert main(["schedule", "report", str(run_file), *map(str, options)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"reward\s+12\s", shown)
    assert page.read_text().startswith("<!doctype html>")
    root = ET.fromstring(chart.read_text())  # noqa: S314  our own chart
    (bars,) = [element for element in root.iter("{http://www.w3.org/2000/svg}g") if element.get("id") == "bars"]
    titles = [element.text for element in bars.iter("{http://www.w3.org/2000/svg}title")]
    records = read_trace(run_file).records
    assert len(titles) == sum(width(record) for record in records)
    assert {title.partition(":")[0] for title in titles} == {f"{r.kind} {r.id}, {r.trajectory}" for r in records}
    assert chart.read_text().partition("<svg")[2] in page.read_text()
    assert json.loads(chrome.read_text())["traceEvents"]


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


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_report_draws_in_the_form_of_the_suffix(run_file, suffix, tmp_path):
    assert main(["schedule", "report", str(run_file), "--plot", str(tmp_path / f"run{suffix}")]) == 0
    assert (tmp_path / f"run{suffix}").read_bytes()[:4] in (b"\x89PNG", b"%PDF")


def test_simulate_compares_policies_and_pods(capsys):
    args = [
        "schedule",
        "simulate",
        "coding",
        "--trajectories",
        "24",
        "--cores",
        "16,32",
        "--policy",
        "price,fifo(dop=4)",
    ]
    assert main([*args, "--pods", "4", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(row["cores"], row["policy"]) for row in runs] == [
        (cores, policy) for cores in (16, 32) for policy in ("price", "fifo(dop=4)", "pods of 4")
    ]
    expected = simulate(coding(24), {"n": {"cpu": 16}}, "price").summary()["act_mean_s"]
    assert runs[0]["act_mean_s"] == expected


def test_replay_of_a_simulated_run_gives_its_completion_times(run_file, capsys):
    assert main(["schedule", "replay", str(run_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recorded_over_simulated"] == pytest.approx([1.0])


def test_without_a_trace_the_workload_coding_is_simulated(capsys, tmp_path):
    out = tmp_path / "result.json"
    assert main(["schedule", "simulate", "--trajectories", "12", "--json", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown) == json.loads(out.read_text())
    assert json.loads(shown)["actions"] == len(coding(12).records)


def test_a_simulated_run_is_written_as_a_trace(capsys, tmp_path):
    out = tmp_path / "run.jsonl"
    assert main(["schedule", "simulate", "--trajectories", "5", "--cores", "8", "--out", str(out)]) == 0
    assert len(run_summary(read_trace(out))) == 3
    assert f"wrote {out}" in capsys.readouterr().out


def test_deepsearch_runs_under_its_quota(capsys):
    assert main(["schedule", "simulate", "deepsearch", "--trajectories", "20", "--rate", "4", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["runs"][0]
    searches = sum(record.kind == "search" for record in deepsearch(20).records)
    assert run["step_s"] >= (searches - 4) / 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simulate", "nowhere"], "TRACE 'nowhere' is neither a file nor a workload"),
        (["simulate", "."], "TRACE '.' is a folder"),
        (["simulate", "coding", "--cores", "0"], "--cores must be whole numbers from 1"),
        (["simulate", "coding", "--cores", "8,x"], "--cores must be whole numbers"),
        (["simulate", "coding", "--policy", "best"], "--policy can't be 'best': policy 'best': price, fifo"),
        (
            ["simulate", "coding", "--policy", "fifo(dop=0)"],
            "must be a whole number of at least 1 and at most 1000000, not 0",
        ),
        (["simulate", "coding", "--policy", "fifo(dop=x)"], "`dop` of fifo must be a whole number"),
        (["simulate", "coding", "--policy", "price(c=1)"], "has no option 'c'"),
        (["simulate", "coding", "--policy", "price(b=x)"], "has an option that must be a number"),
        (["simulate", "coding", "--policy", ""], "--policy"),
        (["simulate", "coding", "--pods", "400"], "--pods 400: 320 cores hold not even one"),
        (["simulate", "coding", "--rate", "0"], "--rate must be a number above 0 and at most 1e+09; got '0'"),
        (
            ["simulate", "coding", "--pod-start-s", "-1"],
            "--pod-start-s must be a number at least 0 and at most 1e+09; got '-1'",
        ),
        (["simulate", "coding", "--seed", "x"], "--seed must be a whole number of at least 0; got 'x'"),
        (["simulate", "coding", "--out", "run.csv"], "--out must end in .json or .jsonl; got 'run.csv'"),
        (
            ["simulate", "coding", "--out", "no/such/run.json"],
            "--out 'no/such/run.json' lies in a folder that does not exist",
        ),
        (
            ["simulate", "coding", "--json", "x.json"],
            "--json takes no value: it prints the result. To write a file use --out x.json",
        ),
        (["simulate", "coding", "--core", "8"], "there is no option --core; did you mean --cores?"),
        (["report", "nowhere", "--out", "x.svg"], "TRACE 'nowhere' does not exist"),
        (["report", "."], "TRACE '.' is a folder"),
        (["check", "nowhere"], "TRACE 'nowhere' does not exist"),
        (["check"], "TRACE must be given"),
        (["sumulate"], "there is no job 'sumulate'; did you mean simulate?"),
        (["simulate", "coding", "--pods", "0"], "--pods"),
        (["simulate", "coding", "--noise", "-1"], "--noise"),
        (["simulate", "coding", "--cores", "8,9", "--out", "x.jsonl"], "--out x.jsonl holds one run"),
        (["simulate", "coding", "--trajectories", "0"], "--trajectories"),
        (["report", "nowhere"], "nowhere"),
        (["replay", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_are_named(arguments, words, capsys):
    assert main(["schedule", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("mimo-hf schedule")
    assert error.count("\n") == 1


def test_an_unrun_trace_cannot_be_reported(tmp_path):
    write_trace(tmp_path / "x.jsonl", coding(2))
    with pytest.raises(ValueError, match="run it first"):
        run_summary(read_trace(tmp_path / "x.jsonl"))


def test_amdahl_in_a_trace_is_the_default_curve():
    (record,) = parse_trace(
        [HEADER, '{"id": 0, "kind": "a", "cost": {"cpu": {"min": 1, "max": 2}}, "t1_s": 1}']
    ).records
    assert record.cost["cpu"].curve == Amdahl(0.05)


NO_ACTIONS = '{"format": "mimo-trace", "version": 1, "nodes": {"local": {"cpu": 4}}}\n'


@pytest.mark.parametrize(
    "job", ["simulate", "simulate --pods 1", "simulate --out r.jsonl", "replay", "report", "check"]
)
def test_a_trace_without_actions_ends_in_one_sentence(tmp_path, capsys, job):
    path = tmp_path / "none.jsonl"
    path.write_text(NO_ACTIONS)
    words = ["schedule", *(str(tmp_path / word) if word == "r.jsonl" else word for word in job.split())]
    code = main([*words[:2], str(path), *words[2:]])
    told = capsys.readouterr().err.splitlines()
    assert code != 0
    assert len(told) == 1
    assert "none.jsonl has a header and no actions; each further line is one." in told[0]


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


def test_the_action_that_never_starts_is_the_one_that_is_named(tmp_path, capsys):
    path = tmp_path / "t.jsonl"
    rows = [
        {"format": "mimo-trace", "version": 1, "nodes": {"a": {"cpu": 4, "gpu": 1}, "b": {"cpu": 64}}},
        {"id": 7, "kind": "short", "cost": {"gpu": 1}, "t1_s": 0},
        {"id": 0, "kind": "x", "cost": {"cpu": 64}, "t1_s": 1, "env": "e"},
        {"id": 1, "kind": "late", "cost": {"gpu": 1}, "t1_s": 2, "env": "e"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["schedule", "simulate", str(path)]) != 0
    (told,) = capsys.readouterr().err.splitlines()
    assert (
        "t.jsonl:4: 1 of 3 actions never start, this one first: it costs gpu, and waits for more than node 'b' has"
        in told
    )
    holders = [Record(n, "x", {"memory": n // 2 + 2}, 0.0, f"t{n % 2}") for n in range(4)]
    with pytest.raises(
        TraceError, match=r"trace, action 2: 2 of 4 actions never start, this one first: it costs memory"
    ):
        simulate(Trace(holders, {"n": {"memory": 4}}), held=["memory"])


def test_pods_need_trajectories_and_the_error_names_the_option(tmp_path, capsys):
    path = tmp_path / "t.jsonl"
    path.write_text(NO_ACTIONS + '{"id": 0, "kind": "x", "cost": {"cpu": 1}, "t1_s": 1}\n')
    assert main(["schedule", "simulate", str(path), "--pods", "1"]) != 0
    assert "--pods 1: " in (told := capsys.readouterr().err)
    assert "t.jsonl:2 has no 'trajectory'" in told
