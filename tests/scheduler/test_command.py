"""`mimo-hf schedule` does what its help says."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from mimo_hf.cli import main
from mimo_hf.scheduler.simulate.export import run_summary, width
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import (
    FIELDS,
    SAMPLE,
    Record,
    Trace,
    TraceError,
    read_trace,
)
from mimo_hf.scheduler.simulate.workloads import coding, deepsearch

from .conftest import HEADER


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
        assert last.startswith(f"mimo-hf schedule {job}: error: {path} must be a trace; got 12 lines")


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        ('{"gpu": 1}', "must name known resources: cpu; got 'gpu'"),
        ('{"cpu": 5}', "the largest node has, 4; got 5"),
        ('{"cpu": {"min": 6, "max": 8}}', "got 6"),
    ],
)
def test_what_no_node_can_meet_is_named_with_file_and_line(tmp_path, capsys, cost, words):
    path = tmp_path / "big.jsonl"
    path.write_text(f'{HEADER}\n\n{{"id": 7, "kind": "a", "cost": {cost}, "t1_s": 1}}\n')
    with pytest.raises(TraceError, match=rf"big\.jsonl:3: .*{words}"):
        simulate(read_trace(path))
    for arguments in (["simulate", str(path)], ["check", str(path)]):
        assert main(["schedule", *arguments]) == {"simulate": 2, "check": 1}[arguments[0]]
        error = capsys.readouterr().err
        assert f"{path}:3: " in error
        assert words in error
        assert error.count("\n") == 1
    with pytest.raises(TraceError, match=f"trace, action 7: .*{words}"):
        simulate(Trace([replace(read_trace(path).records[0], line=0)], {"n": {"cpu": 4}}))


def test_a_trace_without_actions_is_an_error_in_one_line(tmp_path, capsys):
    path = tmp_path / "none.jsonl"
    path.write_text(HEADER + "\n")
    for job in ("simulate", "replay", "report", "check"):
        assert main(["schedule", job, str(path)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err == (
            f"mimo-hf schedule {job}: error: {path} must hold an action a line after its header; got a header and no actions.\n"
        )
    with pytest.raises(ValueError, match="without actions"):
        simulate(read_trace(path)).summary()


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
        (["simulate", "coding", "--policy", "best"], "--policy can't be 'best': `policy` must be one of price, fifo"),
        (
            ["simulate", "coding", "--policy", "fifo(dop=0)"],
            "must be a whole number of at least 1 and at most 1000000, not 0",
        ),
        (["simulate", "coding", "--policy", "fifo(dop=x)"], "`dop` of fifo must be a whole number"),
        (["simulate", "coding", "--policy", "price(c=1)"], "has no option 'c'"),
        (["simulate", "coding", "--policy", "price(b=x)"], "has an option that must be a number"),
        (["simulate", "coding", "--policy", ""], "--policy"),
        (["simulate", "coding", "--pods", "400"], "--pods 400 must not be more than the cores; got 320"),
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
        (["simulate", "coding", "--cores", "8,9", "--out", "x.jsonl"], "--out x.jsonl must be of one run"),
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
    assert "none.jsonl must hold an action a line after its header; got a header and no actions." in told[0]


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
    assert "--pods 1 must" in (told := capsys.readouterr().err)
    assert "t.jsonl:2 has none" in told
