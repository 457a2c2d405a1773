"""The live scheduler: what is submitted ends in one state, in time, on the cores it was given."""

import asyncio
import json
import os
import pickle
import re
import sys
import threading
import time
from functools import partial

import pytest

from mimo_hf.scheduler import (
    Action,
    ActionScheduler,
    ActionTimeout,
    Command,
    ElasticRange,
    QueueFull,
    QuotaRefused,
    SchedulerConfig,
    SchedulerLost,
    Unsatisfiable,
    WorkerLost,
)
from mimo_hf.scheduler.executors.local import LocalExecutor
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import read_trace

from .conftest import SLEEP, call, drive, nothing


def test_results_come_back_in_order_and_exceptions_are_results():
    async def work(scheduler):
        found = await scheduler.map([call(f"{n} * {n}") for n in range(20)])
        mixed = await scheduler.map([call("1"), call("1 / 0"), call("2")], return_exceptions=True)
        with pytest.raises(ZeroDivisionError):
            await scheduler.run(call("1 / 0"))
        return found, mixed, scheduler.stats()

    found, mixed, stats = drive(work)
    assert found == [n * n for n in range(20)]
    assert mixed[0] == 1
    assert isinstance(mixed[1], ZeroDivisionError)
    assert mixed[2] == 2
    assert stats["outcomes"] == {"done": 22, "failed": 2}


def test_a_handle_tells_its_state_lease_and_times():
    async def work(scheduler):
        first = await scheduler.submit(call(SLEEP.format(0.1), {"cpu": 4}))
        second = await scheduler.submit(call("5", {"cpu": ElasticRange(1, 3)}))
        states = [second.state]
        await first
        result = await second
        states.append(second.state)
        return states, result, first, second

    states, result, first, second = drive(work)
    assert states == ["queued", "done"]
    assert result == 5
    assert second.lease.units == 3
    assert second.timing["submit_s"] < first.timing["end_s"] <= second.timing["start_s"] <= second.timing["end_s"]


def test_units_grow_when_the_machine_is_empty_and_shrink_under_load():
    cores = "int(__import__('os').environ['MIMO_ACTION_CORES'])"

    async def work(scheduler):
        alone = await scheduler.run(call(cores, {"cpu": ElasticRange(1, 4)}))
        blocker = await scheduler.submit(call(SLEEP.format(0.2), {"cpu": 4}))
        crowd = await scheduler.map([call(cores, {"cpu": ElasticRange(1, 4)}) for _ in range(12)])
        await blocker
        return alone, crowd

    alone, crowd = drive(work)
    assert alone == 4
    assert crowd[0] == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_an_action_runs_on_the_cores_of_its_lease_and_its_worker_is_set_free_again():
    mine = sorted(os.sched_getaffinity(0))

    async def work(scheduler):
        handle = await scheduler.submit(call("sorted(__import__('os').sched_getaffinity(0))"))
        seen = await handle
        workers = [sorted(os.sched_getaffinity(pid)) for pid in scheduler.executor.workers()]
        command = await scheduler.run(
            Action("sh", Command((sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))")), {"cpu": 1})
        )
        return handle.lease.cores, seen, workers, command.stdout

    cores, seen, workers, inherited = drive(work, cpu_cores=len(mine), cpu_enforce="affinity")
    assert seen == list(cores)
    assert len(seen) == 1
    assert all(worker == mine for worker in workers)
    assert inherited == "1\n"


def test_cores_in_use_never_exceed_capacity(tmp_path):
    log = tmp_path / "log"
    note = f"echo $(date +%s.%N) {{}} >> {log}"

    async def work(scheduler):
        for units in [1, 2, 3] * 13:
            script = f"{note.format(units)}; sleep 0.02; {note.format(-units)}"
            await scheduler.submit(Action("sh", Command(("sh", "-c", script)), {"cpu": units}))
        await scheduler.drain(30)

    drive(work)
    changes = sorted((float(at), int(units)) for at, units in (line.split() for line in log.read_text().splitlines()))
    assert len(changes) == 78
    level = 0
    for _, change in changes:
        level += change
        assert level <= 4


def test_memory_of_a_trajectory_is_held_between_its_actions():
    async def work(scheduler):
        first = await scheduler.run(call("1", {"cpu": 1, "memory": 8}, trajectory="a"))
        other = await scheduler.submit(call("2", {"cpu": 1, "memory": 8}, trajectory="b"))
        again = await scheduler.run(call("3", {"cpu": 1, "memory": 8}, trajectory="a"))
        waiting = other.state
        scheduler.release("a")
        second = await other
        scheduler.release("b")
        return first, waiting, again, second

    assert drive(work, resources={"memory": 10}, held=["memory"]) == (1, "queued", 3, 2)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (call("1", {"cpu": 9}), "the largest node has, 4"),
        (call("1", {"gpu": 1}), "got 'gpu'"),
        (call("1", {"cpu": float("nan")}), "must be a number"),
        (call("1", timeout_s=0), "timeout_s"),
        (call("1", queue_timeout_s=-1), "queue_timeout_s"),
        (call("1", est_s=-1), "est_s"),
    ],
)
def test_what_could_never_run_is_refused_at_submit(action, words):
    async def work(scheduler):
        with pytest.raises(ValueError, match=words):
            await scheduler.submit(action)
        return scheduler.core.queued

    assert drive(work) == 0


@pytest.mark.parametrize(
    ("fn", "words"), [(lambda: 1, "picklable"), (threading.Lock().acquire, "picklable"), (3, "callable")]
)
def test_what_cannot_travel_is_refused_at_submit(fn, words):
    async def work(scheduler):
        with pytest.raises(TypeError, match=words):
            await scheduler.submit(Action("x", fn, {"cpu": 1}))

    drive(work)


def test_a_result_that_cannot_travel_is_an_error():
    async def work(scheduler):
        with pytest.raises(Exception, match="pickle"):
            await scheduler.run(call("__import__('threading').Lock()"))
        with pytest.raises(RuntimeError, match="SystemExit"):
            await scheduler.run(call("__import__('sys').exit(3)"))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await scheduler.run(call("next(iter([]))"))
        return len(scheduler.executor.workers())

    assert drive(work) == 4  # none of them cost a worker


def test_run_sync_works_from_any_thread_but_the_loops_own():
    with ActionScheduler(SchedulerConfig(cpu_cores=2, cpu_enforce="count")) as scheduler:
        assert scheduler.run_sync(call("6 * 7")) == 42
        results = []
        threads = [
            threading.Thread(target=lambda n=n: results.append(scheduler.run_sync(call(f"{n}")))) for n in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == list(range(6))

        async def from_the_loop():
            with pytest.raises(RuntimeError, match="wait for itself"):
                scheduler.run_sync(call("1"))
            return True

        assert asyncio.run_coroutine_threadsafe(from_the_loop(), scheduler.loop).result(10)

        async def from_another_loop():
            handle = await scheduler.submit(call("8"))
            return await handle, await scheduler.map([call("9")])

        assert asyncio.run(from_another_loop()) == (8, [9])
        assert scheduler.stats()["outcomes"] == {"done": 9}
    with pytest.raises(SchedulerLost):
        scheduler.run_sync(call("1"))


def test_a_full_queue_blocks_or_raises():
    async def refuse(scheduler):
        handles = [await scheduler.submit(Action("n", partial(asyncio.sleep, 0.05), {"cpu": 4}))]
        await asyncio.sleep(0.01)
        handles += [await scheduler.submit(Action("n", nothing, {"cpu": 4})) for _ in range(3)]
        with pytest.raises(QueueFull, match="max_queue"):
            await scheduler.submit(Action("n", nothing, {"cpu": 4}))

    drive(refuse, max_queue=3, backpressure="raise")

    async def block(scheduler):
        most = 0
        for _ in range(20):
            await scheduler.submit(Action("n", partial(asyncio.sleep, 0.005), {"cpu": 4}))
            most = max(most, scheduler.core.queued)
        return most

    assert drive(block, max_queue=3) == 3


def test_quotas_limit_calls_in_any_window_and_at_once():
    starts, inside, most = [], 0, 0

    async def search():
        nonlocal inside, most
        starts.append(time.monotonic())
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)
        inside -= 1

    async def work(scheduler):
        await scheduler.map([Action("search", search, {"search": 1, "key": 1}) for _ in range(14)])

    drive(work, quotas={"search": {"rate": 20, "burst": 4}, "key": {"concurrency": 2}})
    assert most == 2
    for i, start in enumerate(starts):
        for j in range(i, len(starts)):
            assert j - i + 1 <= 20 * (starts[j] - start) + 4 + 0.5  # half a call for the clock's jitter


def test_a_refused_call_shrinks_its_quota_and_is_made_again():
    answers = [QuotaRefused(retry_after_s=0.2), QuotaRefused(), *[None] * 40]
    times = []

    async def search():
        times.append(time.monotonic())
        answer = answers.pop(0)
        if answer:
            raise answer
        return "found"

    async def work(scheduler):
        quota = scheduler.core.quotas["search"]
        first = await scheduler.submit(Action("search", search, {"search": 1}))
        result = await first
        shrunk = quota.rate
        await scheduler.map([Action("search", search, {"search": 1}) for _ in range(20)])
        answers[:] = [QuotaRefused("no more")] * 9
        with pytest.raises(QuotaRefused, match="no more"):
            await scheduler.run(Action("search", search, {"search": 1}))
        return result, first.attempt, shrunk, quota

    result, attempt, shrunk, quota = drive(work, quotas={"search": {"rate": 200.0, "burst": 50}}, loss_retries=2)
    assert (result, attempt) == ("found", 3)
    assert times[1] - times[0] >= 0.2
    assert 50.0 <= shrunk < 60.0  # halved twice, and regrown by one success
    assert quota.rate < 200.0
    assert len(answers) == 6
    assert pickle.loads(pickle.dumps(QuotaRefused("why", 3.0))).retry_after_s == 3.0


def test_an_action_with_a_known_key_runs_once(tmp_path):
    source = f"open({str(tmp_path / 'log')!r}, 'a').write('x')"

    async def work(scheduler):
        first, second = await scheduler.map([call(source, dedup_key="k"), call(source, dedup_key="k")])
        third = await scheduler.run(call(source, dedup_key="k"))
        return first, second, third

    assert drive(work) == (1, 1, 1)
    assert (tmp_path / "log").read_text() == "x"


def test_only_declared_errors_are_tried_again(tmp_path):
    log = str(tmp_path / "log")
    source = f"(open({log!r}, 'a').write('x'), 1 / (len(open({log!r}).read()) > 2))[1]"

    async def work(scheduler):
        good = await scheduler.submit(call(source, retries=5, retry_on=(ZeroDivisionError,), idempotent=True))
        value = await good
        with pytest.raises(ZeroDivisionError):
            await scheduler.run(call("1 / 0", retries=5, idempotent=True))
        return value, good.attempt

    value, attempt = drive(work)
    assert value == 1.0
    assert attempt == len((tmp_path / "log").read_text())


def test_whole_gpus_are_handed_out_in_aligned_blocks_and_shown_to_the_action():
    visible = "__import__('os').environ['CUDA_VISIBLE_DEVICES']"

    async def work(scheduler):
        handles = [
            await scheduler.submit(call(f"({SLEEP.format(0.05)}, {visible})[1]", {"gpu": n})) for n in (1, 2, 1, 4)
        ]
        return [await handle for handle in handles], [handle.lease.gpus for handle in handles]

    seen, blocks = drive(work, resources={"gpu": 8})
    assert seen == [",".join(map(str, block)) for block in blocks]
    assert blocks == [(0,), (2, 3), (1,), (4, 5, 6, 7)]


def test_every_action_is_recorded_and_the_record_replays(tmp_path):
    path = tmp_path / "run.jsonl"

    async def work(scheduler):
        await scheduler.map(
            [call(SLEEP.format(0.03), {"cpu": 1 + n % 2}, kind="tool", trajectory=f"t{n % 3}") for n in range(12)]
        )
        with pytest.raises(ActionTimeout):
            await scheduler.run(call(SLEEP.format(60), timeout_s=0.1))

    drive(work, trace_path=str(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 14
    assert {line["outcome"] for line in lines[1:]} == {"done", "timed_out"}
    for line in lines[1:]:
        assert line["submit_s"] <= line["start_s"] <= line["end_s"] == line["release_s"]
        assert len(line["cores"]) == line["cost"]["cpu"]
    trace = read_trace(path)
    assert simulate(trace).summary()["actions"] == 13


def test_prometheus_text_counts_what_happened():
    async def work(scheduler):
        await scheduler.map([call("1", trajectory=f"t{n}") for n in range(5)])
        with pytest.raises(ZeroDivisionError):
            await scheduler.run(call("1 / 0"))
        reader, writer = await asyncio.open_connection("127.0.0.1", scheduler.metrics_port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        page = (await reader.read()).decode()
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", scheduler.metrics_port)
        writer.write(b"GET /other HTTP/1.1\r\n\r\n")
        missing = (await reader.read()).decode()
        writer.close()
        return page, missing

    page, missing = drive(work, metrics_port=0)
    assert page.startswith("HTTP/1.1 200")
    assert missing.startswith("HTTP/1.1 404")
    assert 'mimo_actions_total{kind="call",outcome="done"} 5' in page
    assert 'mimo_actions_total{kind="call",outcome="failed"} 1' in page
    assert 'mimo_act_seconds_bucket{kind="call",le="+Inf"} 6' in page
    assert "mimo_queue_depth 0" in page
    assert 'mimo_units_in_use{resource="cpu"} 0' in page
    assert "mimo_service_switches_total 0" in page
    assert "t3" not in page
    buckets = [int(n) for n in re.findall(r'mimo_act_seconds_bucket\{kind="call",le="[^"]+"\} (\d+)', page)]
    assert buckets == sorted(buckets)


def test_kinds_beyond_the_hundredth_share_one_label():
    async def work(scheduler):
        for n in range(130):
            await scheduler.run(Action(f"kind{n}", nothing, {"cpu": 1}))
        return scheduler.prometheus()

    text = drive(work)
    assert 'mimo_actions_total{kind="other",outcome="done"} 30' in text


def test_settings_are_parsed_from_a_command_line_and_checked():
    from transformers import HfArgumentParser

    (config,) = HfArgumentParser(SchedulerConfig).parse_args_into_dataclasses(
        ["--policy", "fifo(dop=2)", "--cpu_cores", "3", "--straggler_floor_s", "5"]
    )
    assert config.make_policy().name == "fifo"
    assert config.cpu_cores == 3
    for wrong in (
        {"policy": "best"},
        {"backpressure": "drop"},
        {"cpu_enforce": "hard"},
        {"max_queue": 0},
        {"default_timeout_s": 0},
        {"gpu_reserve": 1},
        {"quotas": {"a": {"speed": 1}}},
        {"policy": "fifo", "order": "srpt"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong)).replace("policy", "(policy|order)")):
            SchedulerConfig(**wrong)
    with pytest.raises(ValueError, match="must leave some"):
        LocalExecutor(reserve_cores=10_000)


def test_errors_survive_a_pickle():
    for kind in (WorkerLost, Unsatisfiable, ActionTimeout):
        assert str(pickle.loads(pickle.dumps(kind("why")))) == "why"
