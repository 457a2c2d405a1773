"""benchmarks/_timing.py and _record.py: turns, spread, load, and that a busy machine overwrites nothing."""

import json
import subprocess
import sys
import time

import _record
import _timing
import numpy as np
import pytest


def test_functions_take_turns_and_every_other_round_runs_backwards():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = _timing.in_turn(ways, repeats=3, warmups=1)
    assert "".join(calls) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(spent) for name, spent in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_ratio_is_taken_pair_by_pair():
    above, below = [2.0, 9.0, 4.0, 20.0, 5.0], [1.0, 3.0, 1.0, 4.0, 1.0]
    ratios = np.array(above) / below
    found = _timing.ratio_of(above, below)
    assert found["ratio"] == np.median(ratios) == 4.0  # of the medians it would be 5
    assert (found["ratio_min"], found["ratio_max"]) == (2.0, 5.0)
    assert found["spread"] == pytest.approx((np.quantile(ratios, 0.75) - np.quantile(ratios, 0.25)) / 4.0)


def test_one_pair_has_no_spread():
    assert _timing.ratio_of([3.0], [2.0]) == {"ratio": 1.5, "ratio_min": 1.5, "ratio_max": 1.5, "spread": 0.0}


@pytest.mark.parametrize(
    ("spreads", "attempts", "steady"), [([0.1], 1, True), ([0.4, 0.02], 2, True), ([0.4, 0.3, 0.5], 3, False)]
)
def test_an_unsteady_pair_is_timed_again_and_then_marked(monkeypatch, spreads, attempts, steady):
    waiting = list(spreads)
    monkeypatch.setattr(_timing, "ratio_of", lambda above, below: {"ratio": 1.0, "spread": waiting.pop(0)})
    figures, seconds = _timing.steady_ratio({"a": int, "b": int}, "a", "b", repeats=2)
    assert (figures["attempts"], figures["steady"], figures["spread"]) == (attempts, steady, min(spreads))
    assert len(seconds["a"]) == 2


def test_load_is_what_neither_this_process_nor_its_children_did(monkeypatch):
    clock = iter([0.0, 10.0])
    everyone, own = iter([100.0, 115.0]), iter([20.0, 29.0])
    monkeypatch.setattr(_timing.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(_timing, "_all_processor_s", lambda: next(everyone))
    monkeypatch.setattr(_timing, "_own_processor_s", lambda: next(own))
    assert _timing.Load().figures()["busy_cores_elsewhere"] == 0.6


def test_time_of_children_counts_as_our_own_while_they_run_and_after():
    before = _timing._own_processor_s()
    spin = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        running = _timing._own_processor_s() - before
        child.stdin.write(b"\n")
    ended = _timing._own_processor_s() - before
    assert running >= 0.45  # the clock of other processes ticks in hundredths
    assert ended >= running


@pytest.fixture
def machine(monkeypatch):
    """Sets how many of the machine's four cores others keep busy."""

    def set_busy(cores):
        figures = {"cores": 4, "busy_cores_elsewhere": cores}
        monkeypatch.setattr(_record.SINCE_IMPORT, "figures", lambda: dict(figures), raising=False)

    return set_busy


def test_timings_carry_the_load_and_the_commit(tmp_path, machine):
    machine(0.1)
    path = _record.record("speed", {"ratio": 2.0}, seed=1, folder=tmp_path, timed=True)
    content = json.loads(path.read_text())
    assert content["machine"] == {"cores": 4, "busy_cores_elsewhere": 0.1, "busy": False}
    assert {"commit", "command", "seed", "date", "device", "versions"} <= content.keys()


def test_a_busy_machine_overwrites_no_timing_and_loses_none(tmp_path, machine):
    machine(0.0)
    _record.record("speed", {"ratio": 2.0}, folder=tmp_path, timed=True)
    machine(0.5)
    with pytest.raises(SystemExit, match=r"speed.json stays as it is: .* 0.50 of 4 cores .* speed.busy.json.*--force"):
        _record.record("speed", {"ratio": 3.0}, folder=tmp_path, timed=True)
    assert json.loads((tmp_path / "speed.json").read_text())["ratio"] == 2.0
    assert json.loads((tmp_path / "speed.busy.json").read_text())["ratio"] == 3.0
    forced = json.loads(_record.record("speed", {"ratio": 4.0}, folder=tmp_path, timed=True, force=True).read_text())
    assert (forced["ratio"], forced["machine"]["busy"]) == (4.0, True)


def test_results_without_timings_are_written_on_any_machine(tmp_path, machine):
    machine(3.0)
    path = _record.record("study", {"accuracy": 0.5}, folder=tmp_path, timed=False)
    assert json.loads(path.read_text())["machine"] == {"cores": 4, "busy_cores_elsewhere": 3.0}


def test_the_clock_of_in_turn_sees_the_call(monkeypatch):
    ticks = iter([0.0, 2.0, 2.0, 5.0, 5.0, 9.0, 9.0, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert _timing.in_turn({"a": int, "b": int}, repeats=2, warmups=0) == {"a": [2.0, 1.0], "b": [3.0, 4.0]}
