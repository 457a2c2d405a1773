"""Numbers and names from files, settings and the command line: each wrong one ends in one clear error."""

import json
import tracemalloc

import pytest

from mimo_hf.cli import main
from mimo_hf.scheduler import QuotaRefused, SchedulerConfig
from mimo_hf.scheduler.core.numbers import MOST_SHOWN, shown
from mimo_hf.scheduler.core.policies import make_policy
from mimo_hf.scheduler.core.resources import Concurrency, TokenBucket, Window
from mimo_hf.scheduler.core.types import ElasticRange, TableCurve
from mimo_hf.scheduler.errors import SchedulerError
from mimo_hf.scheduler.executors.local import LocalExecutor
from mimo_hf.scheduler.simulate.export import chrome_trace, gantt, gantt_svg, lanes, width
from mimo_hf.scheduler.simulate.trace import MOST_LINE, MOST_PROBLEMS, Record, Trace, TraceError, read_trace

from .conftest import HEADER, call, drive

ACTION = '{{"id": 0, "kind": "a", "cost": {{"cpu": 1}}, "t1_s": 1, {more}}}'

HUGE = 10**30


def cost(text):
    return f'{{"id": 0, "kind": "a", "cost": {text}, "t1_s": 1}}'


BAD_LINES = [
    # huge, not finite, negative
    (cost(f'{{"cpu": {HUGE}}}'), "`cost` of 'cpu' must be a number from 0"),
    (cost(f'{{"cpu": {10**400}}}'), "`cost` of 'cpu' must be a number from 0 .* a whole number of 401 digits"),
    (cost('{"cpu": 1e999}'), "`cost` of 'cpu' must be a number from 0"),
    (cost('{"cpu": -1}'), "`cost` of 'cpu' must be a number from 0"),
    (cost('{"cpu": NaN}'), "`cost` of 'cpu' must be a number from 0"),
    (cost(f'{{"cpu": {{"min": 1, "max": {HUGE}}}}}'), "ElasticRange.* 1000000"),
    (cost('{"cpu": {"min": 1, "max": 1e999}}'), "ElasticRange"),
    (cost('{"cpu": {"min": true, "max": 2}}'), "ElasticRange"),
    (cost(f'{{"cpu": {{"min": 1, "max": 2, "allowed": [{HUGE}]}}}}'), "`allowed`"),
    (cost('{"cpu": {"min": 1, "max": 2, "curve": {"amdahl": true}}}'), "`curve` must be .*; got amdahl True"),
    (cost('{"cpu": {"min": 1, "max": 2, "curve": {"amdahl": NaN}}}'), "`curve` must be .*; got amdahl nan"),
    (cost('{"cpu": {"min": 1, "max": 2, "curve": {"power": 1e999}}}'), "`curve` must be .*; got power inf"),
    (cost('{"cpu": {"min": 1, "max": 2, "curve": {"table": [[1e999, 1]]}}}'), "`curve` must be .*; got table"),
    (
        cost(f'{{"cpu": {{"min": 1, "max": 2, "curve": {{"table": [[1, 1], [{10**400}, 0.5]]}}}}}}'),
        "`curve` must be .*; got table",
    ),
    (cost('{"cpu": {"min": 1, "max": 2, "curve": {"table": [[1, 1], [2, NaN]]}}}'), "`curve` must be .*; got table"),
    (cost('{"cpu": {"min": 1, "max": 2, "curve": {"table": [1]}}}'), "`curve` must be .*; got table"),
    (cost('{"cpu": {"min": 1, "max": 2, "curve": {"table": 5}}}'), "`curve` must be .*; got table 5"),
    (ACTION.format(more=f'"id": {10**400}'), "`id` must be a whole number .* a whole number of 401 digits"),
    (ACTION.format(more=f'"units": {HUGE}'), "`units` must be a whole number from 0 to 1000000"),
    (ACTION.format(more=f'"cores": [{HUGE}]'), "`cores` must be a list of core numbers"),
    (ACTION.format(more=f'"priority": {-HUGE}'), "`priority` must be a whole number"),
    (ACTION.format(more=f'"attempt": {HUGE}'), "`attempt` must be a whole number"),
    (ACTION.format(more=f'"t1_s": {HUGE}'), "`t1_s` must be a number of seconds from 0 to 1e.?12"),
    (ACTION.format(more='"gap_s": 1e300'), "`gap_s` must be a number of seconds"),
    (ACTION.format(more='"end_s": -Infinity'), "`end_s` must be a number of seconds"),
    (ACTION.format(more='"est_s": true'), "`est_s` must be a number of seconds"),
    (ACTION.format(more='"t1_s": ' + "9" * 5000), "digits"),
    # names
    (ACTION.format(more=r'"kind": "\u001b[2Jx"'), "`kind` must be a word"),
    (ACTION.format(more=r'"kind": "a\nb"'), "`kind` must be a word"),
    (ACTION.format(more=r'"kind": "\ud800"'), "`kind` must be a word"),
    (ACTION.format(more=r'"trajectory": "\u0000"'), "`trajectory` must be a word"),
    (ACTION.format(more=r'"node": "\u202e"'), "`node` must be a word"),
    (ACTION.format(more='"task": "' + "x" * 5000 + '"'), "`task` must be a word"),
    (cost(r'{"c\u001bpu": 1}'), "`cost` must be an amount by resource"),
    (ACTION.format(more='"' + "x" * 5000 + '": 1'), "must be a field of a trace"),
    (ACTION.format(more=r'"\u001b[2J": 1'), "must be a field of a trace"),
    # wrong kinds of value, deep and long
    (ACTION.format(more='"kind": ' + '{"a": ' * 100 + "1" + "}" * 100), "`kind` must be a word"),
    (ACTION.format(more='"cores": ' + "[" * 50_000), "must be JSON"),
    (ACTION.format(more='"env": "' + "x" * MOST_LINE + '"'), "the line is longer than"),
    ('"' + "y" * MOST_LINE, "the line is longer than"),
]


@pytest.mark.parametrize(("line", "words"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_line_ends_in_one_short_error_and_takes_no_memory(tmp_path, capsys, line, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{HEADER}\n{line}\n")
    tracemalloc.start()
    with pytest.raises(TraceError, match=rf"^{path}:2: .*{words}") as caught:
        read_trace(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20
    assert len(str(caught.value)) < len(str(path)) + 400
    assert str(caught.value).isprintable()
    for job in ("simulate", "replay", "report", "check"):
        assert main(["schedule", job, str(path)]) in (1, 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{path}:2: " in error


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (f'"nodes": {{"n": {{"cpu": {HUGE}}}}}', "'nodes' must be like"),
        (f'"nodes": {{"n": {{"cpu": {10**400}}}}}', "'nodes' must be like"),
        ('"nodes": {"n": {"cpu": NaN}}', "'nodes' must be like"),
        ('"nodes": {"n": {"cpu": true}}', "'nodes' must be like"),
        (r'"nodes": {"\u001b[2J": {"cpu": 1}}', "'nodes' must be like"),
        (r'"nodes": {"n": {"c\npu": 1}}', "'nodes' must be like"),
        ('"nodes": ' + json.dumps({f"n{i}": {"cpu": "x"} for i in range(9999)}), "'nodes' must be like"),
        ('"nodes": {"n": {"cpu": 4}}, "policy": 5', "'policy' of the header must be a word"),
        ('"nodes": {"n": {"cpu": 4}}, "policy": "best"', "got 'best'"),
        ('"nodes": {"n": {"cpu": 4}}, "overhead_s": "x"', "'overhead_s' of the header must be a number of seconds"),
        ('"nodes": {"n": {"cpu": 4}}, "overhead_s": [1]', "'overhead_s' of the header must be a number of seconds"),
        ('"nodes": {"n": {"cpu": 4}}, "overhead_s": 1e999', "'overhead_s' of the header must be a number of seconds"),
        ('"nodes": {"n": {"cpu": 4}}, "x": "' + "x" * MOST_LINE + '"', "the line is longer than"),
    ],
    ids=range(13),
)
def test_a_header_ends_in_one_short_error(tmp_path, capsys, more, words):
    path = tmp_path / "bad.jsonl"
    good = '{"id": 0, "kind": "a", "cost": {"cpu": 1}, "submit_s": 0, "start_s": 0, "end_s": 1}'
    path.write_text(f'{{"format": "mimo-trace", "version": 1, {more}}}\n{good}\n')
    assert main(["schedule", "replay", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert str(path) in error
    assert error.count("\n") == 1
    assert len(error) < len(str(path)) * 2 + 400


def test_a_field_of_a_trace_is_not_taken_for_the_option_of_that_name(tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{HEADER}\n" + ACTION.format(more='"cores": "all"') + "\n")
    assert main(["schedule", "simulate", str(path)]) == 2
    assert f"{path}:2: 'cores' must be a list of core numbers" in capsys.readouterr().err


def test_a_file_that_is_no_trace_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(HEADER + "\n" + "[]\n" * (MOST_PROBLEMS + 500))
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert len(caught.value.problems) == MOST_PROBLEMS + 1
    assert "the rest was not read" in caught.value.problems[-1]


def test_an_ordinary_trace_of_a_large_machine_is_still_read(tmp_path):
    path = tmp_path / "large.jsonl"
    line = {"id": 2**53, "kind": "Tests (ü, 测试)", "cost": {"memory": 64e9, "cpu": 1}, "cores": list(range(10_000))}
    line |= {"t1_s": 1e6, "start_s": 1.8e9, "end_s": 1.8e9 + 1, "priority": -5}
    path.write_text(HEADER.replace('"cpu": 4', '"cpu": 1000000, "memory": 6e12') + "\n" + json.dumps(line) + "\n")
    (record,) = read_trace(path).records
    assert (record.kind, len(record.cores)) == ("Tests (ü, 测试)", 10_000)


def ran(**options):
    defaults = {"id": 0, "kind": "a", "cost": {"cpu": 1}, "t1_s": 1.0, "start_s": 0.0, "end_s": 1.0}
    return Record(**defaults | options)


def test_an_action_that_holds_bytes_is_drawn_in_one_lane():
    record = ran(cost={"memory": 64e9})
    assert width(record) == 1
    assert lanes([record]) == {0: (0,)}
    assert width(ran(cost={"memory": 64e9, "cpu": 3})) == 3


def test_a_picture_of_too_many_units_is_refused_before_it_is_drawn():
    trace = Trace([ran(id=i, units=10**6, start_s=float(i), end_s=i + 1.0) for i in range(200)], name="wide")
    for draw in (chrome_trace, gantt):
        with pytest.raises(ValueError, match=r"wide, action 0: .*10000000 at most.* 1000000 of them"):
            draw(trace)


def test_a_run_that_took_no_time_can_be_drawn():
    assert gantt_svg(Trace([ran(end_s=5e-324)])).startswith("<svg")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ElasticRange(1, HUGE),
        lambda: ElasticRange(True, 2),
        lambda: TableCurve(((1, 1.0), (2, float("inf")))),
        lambda: TableCurve(((1, 1.0), (10**400, 0.5))),
        lambda: Concurrency(float("inf")),
        lambda: Concurrency(float("nan")),
        lambda: Concurrency("8"),
        lambda: TokenBucket("1", 1),
        lambda: TokenBucket(1, 10**400),
        lambda: Window(1, "x"),
        lambda: Window(float("nan"), 1),
        lambda: make_policy("fifo" + "9" * 30),
        lambda: make_policy("fifo" + "9" * 5000),
        lambda: make_policy(f"evict(depth={HUGE})"),
        lambda: make_policy("price(b=nan)"),
        lambda: make_policy("price(max_overtake=nan)"),
        lambda: make_policy("x" * 10_000),
        lambda: QuotaRefused("later", float("inf")),
        lambda: QuotaRefused("later", float("nan")),
        lambda: QuotaRefused("later", -1),
        lambda: QuotaRefused("later", "soon"),
        lambda: LocalExecutor(HUGE),
        lambda: LocalExecutor(HUGE, enforce="count"),
        lambda: LocalExecutor(2.5),
        lambda: LocalExecutor(1, {"gpu": float("inf")}),
        lambda: LocalExecutor(1, {"gpu": HUGE}),
        lambda: LocalExecutor(1, {"memory": 10**400}),
        lambda: LocalExecutor(1, {"mem\nory": 1}),
    ],
)
def test_a_number_that_is_none_is_refused_in_one_short_line(make):
    with pytest.raises(ValueError, match=r"\d|must") as caught:
        make()
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metrics_port", 65536), ("metrics_port", -1), ("metrics_port", 10**30), ("metrics_port", "80"),
        ("metrics_port", True), ("metrics_port", 80.0), ("cpu_cores", 0), ("cpu_cores", HUGE), ("cpu_cores", -1),
        ("cpu_cores", float("nan")), ("reserve_cores", 0.5), ("reserve_cores", HUGE), ("max_queue", "x"),
        ("max_queue", float("nan")), ("loss_retries", 1.5), ("coalesce_ms", float("inf")), ("kill_grace_s", "2"),
        ("kill_grace_s", float("inf")), ("default_timeout_s", "x"), ("default_timeout_s", float("nan")),
        ("gpu_bytes", -1), ("gpu_bytes", float("inf")), ("gpu_reserve", "x"), ("restore_kappa", float("nan")),
        ("seed", "x"),
    ],
)  # fmt: skip
def test_settings_are_looked_at_when_they_are_made(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must"):
        SchedulerConfig(**{name: value})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "a\nb"}, "`kind` must be a word"),
        ({"kind": "\x1b[2J"}, "`kind` must be a word"),
        ({"kind": "\ud800"}, "`kind` must be a word"),
        ({"kind": ""}, "`kind` must be a word"),
        ({"trajectory": "x" * 5000}, "`trajectory` must be a word"),
        ({"task": 5}, "`task` must be a word"),
        ({"env": "\0"}, "`env` must be a word"),
        ({"priority": float("nan")}, "`priority` must be a whole number"),
        ({"priority": HUGE}, "`priority` must be a whole number"),
        ({"retries": -1}, "`retries` must be a whole number"),
        ({"est_s": float("inf")}, "`est_s` must be a number"),
        ({"est_s": -1}, "`est_s` must be a number"),
        ({"timeout_s": "x"}, "`timeout_s` must be"),
        ({"timeout_s": float("nan")}, "`timeout_s` must be"),
        ({"queue_timeout_s": True}, "`queue_timeout_s` must be"),
        ({"cost": {"cpu": 10**400}}, "`cost` of 'cpu' must be a number"),
    ],
)
def test_an_action_is_looked_at_when_it_is_submitted(options, words):
    async def work(scheduler):
        with pytest.raises(ValueError, match=words):
            await scheduler.submit(call("1", **options))

    drive(work, cpu_cores=1)


def test_what_a_live_run_records_can_be_read_again(tmp_path):
    path = tmp_path / "run.jsonl"

    async def work(scheduler):
        await scheduler.run(call("1", kind="Prüfung 测试 {}\"'\\", trajectory="a b", est_s=0.5))

    drive(work, cpu_cores=1, trace_path=str(path))
    assert [record.kind for record in read_trace(path).records] == ["Prüfung 测试 {}\"'\\"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pod-start-s", "1e308"], "--pod-start-s must be a number at least 0"),
        (["--rate", "1e308"], "--rate must be a number above 0"),
        (["--cores", str(HUGE)], "--cores must be whole numbers from 1 to 1000000"),
        (["--trajectories", str(HUGE)], "--trajectories must be a whole number from 1 to 1000000"),
        (["--policy", "fifo" + "9" * 5000], "--policy can't be"),
        (["--policy", f"evict(depth={HUGE})"], "--policy can't be"),
        (["--noise", "nan"], "--noise must be a number"),
    ],
)
def test_huge_arguments_end_in_one_short_line(arguments, words, capsys):
    assert main(["schedule", "simulate", "coding", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert len(error) < 500


def test_values_are_shown_in_one_short_line():
    deep = [[]]
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, HUGE, 10**5000, {"a": "b" * 10**6}, "\x1b\n\ud800", deep, float("nan")):
        assert len(shown(value)) <= MOST_SHOWN
        assert shown(value).isprintable()


def test_the_scheduler_says_what_is_wrong_with_an_action_of_a_client(tmp_path):
    async def work(scheduler):
        client = scheduler.client()
        with pytest.raises(ValueError, match="`kind` must be a word"):
            await client.run(call("1", kind="a\x1bb"))
        with pytest.raises((ValueError, SchedulerError), match="cost"):
            await client.run(call("1", cost={"cpu": HUGE}))

    drive(work, cpu_cores=1)
