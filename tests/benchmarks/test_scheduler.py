"""The arithmetic of the scheduler benchmarks: Ray's rules, intervals, and a small run of each simulation."""

import json
import math
import statistics
import sys

import pytest

from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import Record, Trace
from mimo_hf.scheduler.simulate.workloads import coding


def test_an_interval_is_that_of_students_t():
    from _scheduler import interval

    values = [1.0, 2.0, 4.0]
    found = interval(values)
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["plus_minus"] == pytest.approx(4.303 * statistics.stdev(values) / math.sqrt(3))


def test_rays_rules_on_actions_of_one_shape_are_fifo():
    from _scheduler import simulate_ray

    trace = coding(30, seed=3, max_units=1)
    act, step = simulate_ray(trace, 12, dop=4, overhead_s=0.0)
    expected = simulate(trace, {"n": {"cpu": 12}}, "fifo1").summary()
    assert act == pytest.approx(expected["act_mean_s"])
    assert step == pytest.approx(expected["step_s"])


def test_under_rays_rules_a_shape_that_does_not_fit_holds_up_no_other():
    from _scheduler import simulate_ray

    records = [
        Record(0, "a", {"cpu": 3}, 10.0, gap_s=0.0),
        Record(1, "b", {"cpu": 4}, 1.0, gap_s=1.0),
        Record(2, "c", {"cpu": 1}, 2.0, gap_s=2.0),
    ]
    act, step = simulate_ray(Trace(records), 4, dop=4, overhead_s=0.0)
    assert act == pytest.approx((10.0 + 10.0 + 2.0) / 3)  # b waits until 10 and takes 1; c runs from 2 to 4
    assert step == 11.0


@pytest.mark.parametrize(
    ("name", "arguments", "key"),
    [
        ("scheduler_coding", ["--seeds", "2", "--trajectories", "32"], "sweep"),
        (
            "scheduler_mopd",
            ["--seeds", "2", "--requests", "150", "--live_requests", "40", "--live_width", "64"],
            "runs",
        ),
        ("scheduler_deepsearch", ["--seeds", "2", "--trajectories", "20", "--live_trajectories", "4"], "runs"),
    ],
)
def test_a_small_run_writes_rows_with_intervals(name, arguments, key, tmp_path, monkeypatch):
    script = pytest.importorskip(name)
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *arguments, "--out", str(tmp_path)])
    script.main()
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(written[key]) > 10
    for row in [*written[key], *written.get("live", [])]:
        assert row["act_s"] > 0
        assert row["act_s +-"] >= 0
        assert 0.6 < row.get("act_live_over_simulated", 1.0) < 1.6


def test_the_saving_is_the_fewest_cores_that_are_as_fast():
    import scheduler_coding

    traces = [coding(32, seed) for seed in range(2)]
    found = scheduler_coding.saving(traces, 128)

    def step(cores):
        return statistics.fmean(scheduler_coding.outcome(trace, cores, "price")[1] for trace in traces)

    assert step(found["price_cores"]) <= found["pods_step_s"] < step(found["price_cores"] - 1)
