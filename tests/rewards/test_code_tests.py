"""What programs earn by the tests they pass."""

import asyncio
import json
import pickle
import threading
import warnings

import numpy as np
import pytest

from mimo_hf.processes.program_pool import Result
from mimo_hf.rewards import CodeReward, code_tests as rewards, grade_tests, pass_rates, passed_tests, soft_code_reward

from .conftest import LIMITS, call

TESTS = [{"input": f"{n}\n", "output": f"{n * n}\n"} for n in (1, 2, 3, 10)]
LEVELS, WORTH = [0, 0, 1, 2], [0.5, 0.25, 0.25]
RIGHT = "```python\nprint(int(input()) ** 2)\n```"
UP_TO_2 = "```python\nn = int(input())\nprint(n * n if n < 3 else 'no')\n```"
UP_TO_3 = UP_TO_2.replace("n < 3", "n < 4")
NOT_1 = UP_TO_2.replace("n < 3", "n != 1")


def fenced(source):
    return f"```python\n{source}\n```"


class Recorder:
    """A sandbox that evaluates programs of one expression in this process, and counts."""

    workers = 2
    limits = LIMITS

    def __init__(self, failing=()):
        self.runs, self.failing, self.closed = [], failing, 0

    def run(self, source, stdin="", limits=None, call=False):
        self.runs.append((source, stdin))
        if source in self.failing:
            return Result("infra", stderr="no more processes")
        return Result("ok", str(eval(source, {"n": int(stdin)})))  # noqa: S307  the tests' own expressions

    def close(self):
        self.closed += 1


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("vanilla", [1, 0, 0, 0, 0]),
        ("strict", [1, 0.5, 0.75, 0, 0]),
        ("soft", [1, 0.5, 0.75, 0.5 * 0.5 + 0.5, 0]),
    ],
)
def test_programs_earn_what_the_scheme_gives_for_their_tests(any_sandbox, scheme, expected):
    completions = [RIGHT, UP_TO_2, UP_TO_3, NOT_1, "I don't know."]
    found = call(
        CodeReward(scheme, any_sandbox),
        completions,
        tests=[TESTS] * 5,
        test_levels=[LEVELS] * 5,
        level_scores=[WORTH] * 5,
    )
    assert found == pytest.approx(expected)


def test_without_levels_all_tests_are_one(any_sandbox):
    for scheme, expected in (("strict", [1, 0]), ("soft", [1, 0.75]), ("vanilla", [1, 0])):
        assert call(CodeReward(scheme, any_sandbox), [RIGHT, UP_TO_3], tests=[TESTS] * 2) == expected
    levels_only = call(CodeReward("strict", any_sandbox), [UP_TO_3], tests=[TESTS], test_levels=[LEVELS])
    assert levels_only == pytest.approx([2 / 3])


def test_levels_come_from_measured_pass_rates(any_sandbox):
    programs = [text.partition("\n")[2].rpartition("\n")[0] for text in (RIGHT, UP_TO_2, UP_TO_3, UP_TO_2)]
    rollouts = [passed_tests(program, TESTS, any_sandbox) for program in programs]
    rates = pass_rates(rollouts)
    assert rates == [1, 1, 0.5, 0.25]
    graded = grade_tests(rates)
    assert graded.test_levels == LEVELS
    assert call(
        CodeReward("strict", any_sandbox),
        [UP_TO_3],
        tests=[TESTS],
        test_levels=[graded.test_levels],
        level_scores=[graded.level_scores],
    ) == pytest.approx([2 / 3])


def test_conversational_completions_earn_the_same(any_sandbox):
    reward = CodeReward("strict", any_sandbox)
    chat = [[{"role": "assistant", "content": text}] for text in (RIGHT, UP_TO_2)]
    assert call(reward, chat, tests=[TESTS] * 2) == call(reward, [RIGHT, UP_TO_2], tests=[TESTS] * 2) == [1, 0]


@pytest.mark.parametrize(("scheme", "runs"), [("strict", 3), ("vanilla", 3), ("soft", 4)])
def test_tests_after_a_failure_run_only_where_they_count(scheme, runs):
    sandbox = Recorder()
    shuffled = [TESTS[index] for index in (3, 0, 2, 1)]
    call(
        CodeReward(scheme, sandbox),
        [fenced("n * n if n < 3 else 0")],
        tests=[shuffled],
        test_levels=[[2, 0, 1, 0]],
        level_scores=[WORTH],
    )
    assert len(sandbox.runs) == runs
    assert [int(stdin) for _, stdin in sandbox.runs][:2] == [1, 2]  # the easiest first


def test_equal_programs_of_a_problem_run_once():
    sandbox = Recorder()
    completions = [fenced("n * n")] * 6 + [fenced("n + n")] * 2
    other = [{"input": "5", "output": "25"}]
    found = call(CodeReward("soft", sandbox), completions, tests=[TESTS] * 4 + [other] * 2 + [TESTS] * 2)
    assert found == [1, 1, 1, 1, 1, 1, 0.25, 0.25]
    assert len(sandbox.runs) == 4 + 1 + 4


def test_a_row_that_could_not_be_run_is_none_and_counted():
    logged = {}
    reward = CodeReward("strict", Recorder(failing={"n * n\n"}))
    found = call(reward, [fenced("n * n"), fenced("n + n"), "?"], tests=[TESTS] * 3, log_metric=logged.__setitem__)
    assert found == [None, 0, 0]
    assert logged == pytest.approx({"reward/infra_fail": 1 / 3, "reward/no_code": 1 / 3})


def test_a_reward_that_keeps_nothing_warm_closes_its_sandbox_even_after_an_error():
    sandbox = Recorder()
    reward = CodeReward("strict", sandbox, keep_warm=False)
    call(reward, [fenced("n * n")], tests=[TESTS])
    assert sandbox.closed == 1
    with pytest.raises(NameError):
        call(reward, [fenced("unknown")], tests=[TESTS])
    assert sandbox.closed == 2


CHEATS = {
    "claims success": "print('all tests passed')",
    "claims success as JSON": "print('{\"passed\": true, \"score\": 1.0}')",
    "exits before the answer": "import sys\nsys.exit(0)",
    "exits hard": "import os\nos._exit(0)",
    "prints every answer": "print('\\n'.join(str(n) for n in range(200)))",
    "a print that always agrees": "import builtins\nclass Same(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\nbuiltins.print(Same('x'))",
    "reads the parent's files": "import glob\nfor path in glob.glob('/proc/*/cmdline') + glob.glob('/tmp/*'):\n    try: print(open(path).read())\n    except OSError: pass",
    "right, with an error at the end": "print(int(input()) ** 2)\nraise SystemExit(3)",
    "right, then asleep": "print(int(input()) ** 2, flush=True)\nimport time; time.sleep(1e9)",
    "right, with noise": "print('debug')\nprint(int(input()) ** 2)",
    "NUL": "print(int(input()) ** 2)\0",
    "NaN": "print('nan')",
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_program_that_cheats_earns_nothing(any_sandbox, name):
    assert call(CodeReward("soft", any_sandbox), [fenced(CHEATS[name])], tests=[TESTS[2:3]]) == [0.0]


FUNCTION = {"function": "add", "input": "[2, 3]", "output": "5"}
FUNCTION_CHEATS = {
    "prints the value": "print(5)",
    "prints it and leaves": "import os\nprint(5, flush=True)\nos._exit(0)",
    "agrees with everything": "class Same(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef add(a, b): return Same(7)",
    "object that is no JSON": "class Same:\n    def __eq__(self, other): return True\ndef add(a, b): return Same()",
    "another json": "import json\njson.dumps = lambda value: '5 '\njson.loads = None\ndef add(a, b): return 7",
    "another write": "import os\nos.write = lambda *a: 1\ndef add(a, b): return 7",
    "closed output": "import os\ndef add(a, b):\n    os.close(1)\n    return 5",
    "reads the question": "import sys\nprint(sys.stdin.read())",
    "text for a number": "def add(a, b): return '5'",
    "true for a number": "def add(a, b): return True",
    "no such function": "def plus(a, b): return 5",
    "guessed nonce": "def add(a, b):\n    print('0' * 32 + '5')\n    raise SystemExit(0)",
    "recursive value": "def add(a, b):\n    x = []; x.append(x)\n    return x",
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTION_CHEATS)
def test_a_function_that_cheats_earns_nothing(any_sandbox, name):
    assert call(CodeReward("soft", any_sandbox), [fenced(FUNCTION_CHEATS[name])], tests=[[FUNCTION]]) == [0.0]


@pytest.mark.parametrize(
    "source",
    [
        "def add(a, b): return a + b",
        "def add(a, b):\n    print('debug')\n    return a + b",
        "import builtins, json, os\nbuiltins.print = json.dumps = json.loads = os.write = None\ndef add(a, b): return a + b",
        "import sys\nprint('x', end='')\ndef add(a, b):\n    print('y', end='')\n    return a + b",
    ],
)
def test_a_function_is_called_after_the_program(any_sandbox, source):
    assert call(CodeReward("soft", any_sandbox), [fenced(source)], tests=[[FUNCTION]]) == [1.0]


def test_methods_lists_and_missing_functions(any_sandbox):
    source = fenced("class Solution:\n    def pair(self, xs): return tuple(sorted(xs)), {'n': len(xs)}")
    test = {"function": "Solution.pair", "input": "[[3, 1]]", "output": '[[1, 3], {"n": 2}]'}
    assert call(CodeReward("soft", any_sandbox), [source], tests=[[test]]) == [1.0]
    assert call(CodeReward("soft", any_sandbox), [source], tests=[[{**test, "function": "Solution.other"}]]) == [0.0]


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "same"),
    [
        ("1 2\n", "1 2", 0, True), ("1 2  \n\n", "1 2\n", 0, True), ("1 2\r\n3", "1 2\n3\n", 0, True), (" 1", "1", 0, False),
        ("1  2", "1 2", 0, False), ("1\n\n2", "1\n2", 0, False), ("", "", 0, True), ("1.0", "1", 0, False), ("0.3000001", "0.3", 0, False),
        ("0.3000001", "0.3", 1e-6, True), ("x 0.30001", "x 0.3", 1e-6, False), ("1e9", "1000000001", 1e-6, True), ("nan", "1", 1e-6, False),
        ("x 1", "y 1", 1e-6, False), ("1 2", "1", 1e-6, False), ("inf", "1", 0.5, False), ("1_0", "10", 0, False),
        ("a\u2028b", "a\nb", 0, False), ("1\x0b2", "1\n2", 0, False), ("1\x0c\n", "1", 0, True),
    ],
)  # fmt: skip
def test_outputs_are_compared_line_by_line(found, expected, tolerance, same):
    assert rewards.same_output(found, expected, tolerance) == same


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "same"),
    [
        (1, 1, 0, True), (1.0, 1, 0, True), (True, 1, 0, False), (1, True, 0, False), ([1, [2]], [1, [2]], 0, True), ([1], [1, 2], 0, False),
        ({"a": 1}, {"a": 1}, 0, True), ({"a": 1, "b": 2}, {"a": 1}, 0, False), (0.1 + 0.2, 0.3, 0, False), ([0.1 + 0.2], [0.3], 1e-9, True),
        (None, None, 0, True), (None, 0, 0.1, False), ("1", 1, 1, False), (float("nan"), 1, 1, False), (float("nan"), float("nan"), 0, True), (1, float("nan"), 1, False), ([float("nan")], [float("nan")], 0, True), (None, False, 0, False),
        (1, "1", 0, False), (1, "1", 1, False), (2**53 + 1, 2**53, 0, False), (2**53 + 1, 2**53, 1e-9, True), (1e400, 10**400, 1, False),
    ],
)  # fmt: skip
def test_values_are_compared_as_json(found, expected, tolerance, same):
    assert rewards.same_value(found, expected, tolerance) == same


def test_a_tolerance_and_a_time_limit_hold_for_the_test_that_asks(any_sandbox):
    near = fenced("print(0.3000000001)")
    test = {"input": "", "output": "0.3"}
    reward = CodeReward("soft", any_sandbox)
    assert call(reward, [near] * 2, tests=[[test], [{**test, "float_tolerance": 1e-6}]]) == [0, 1]
    late = fenced("import time; time.sleep(0.6); print(0.3)")
    assert call(reward, [late] * 2, tests=[[test], [{**test, "timeout_s": 0.2}]]) == [1, 0]


def test_it_works_in_a_thread_with_a_loop_of_its_own(any_sandbox):
    found = []
    reward = CodeReward("strict", any_sandbox)
    thread = threading.Thread(target=lambda: found.extend(call(reward, [RIGHT], tests=[TESTS])))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_two_calls_may_share_a_sandbox(any_sandbox):
    async def both():
        strict, soft = CodeReward("strict", any_sandbox), CodeReward("soft", any_sandbox)
        return await asyncio.gather(*(r([RIGHT, UP_TO_3], tests=[TESTS] * 2) for r in (strict, soft)))

    assert asyncio.run(both()) == [[1, 0], [1, 0.75]]


def test_a_reward_pickles(any_sandbox):
    copy = pickle.loads(pickle.dumps(CodeReward("soft", any_sandbox)))
    assert call(copy, [UP_TO_3], tests=[TESTS]) == [0.75]
    copy.sandbox.close()
    assert pickle.loads(pickle.dumps(soft_code_reward)).scheme == "soft"


def test_tests_survive_a_dataset(any_sandbox):
    from datasets import Dataset

    rows = [
        {"prompt": "square", "tests": TESTS, "test_levels": LEVELS, "level_scores": WORTH},
        {"prompt": "add", "tests": [FUNCTION], "test_levels": [0], "level_scores": [1.0]},
        {"prompt": "square", "tests": TESTS, "test_levels": None, "level_scores": None},
    ]
    dataset = Dataset.from_list(rows)
    columns = {name: [row[name] for row in dataset] for name in ("tests", "test_levels", "level_scores")}
    completions = [UP_TO_2, fenced("def add(a, b): return a + b"), RIGHT]
    assert call(CodeReward("strict", any_sandbox), completions, **columns) == [0.5, 1, 1]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "`tests` must be a column"),
        ({"tests": [TESTS] * 2}, "as many rows as `completions`, 1; got 2"),
        ({"tests": [[]]}, "row 0"),
        ({"tests": [None]}, "row 0"),
        ({"tests": [TESTS], "test_levels": [[0, 1]]}, "row 0"),
        ({"tests": [TESTS], "test_levels": [LEVELS], "level_scores": [[0.5, 0.5]]}, "row 0"),
    ],
)
def test_columns_that_are_missing_or_do_not_fit_are_named(columns, words):
    with pytest.raises(ValueError, match=words):
        call(CodeReward("strict", Recorder()), [RIGHT], **columns)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="scheme"):
        CodeReward("hard")
    with pytest.raises(ValueError, match="early_stop"):
        CodeReward("soft", early_stop=True)


def test_a_test_that_no_program_can_pass_is_an_error(any_sandbox):
    """A program may write 64 KiB here; with line ends that do not count, an output of just that much is right."""
    most = any_sandbox.limits.output_bytes
    fits, more = ({"input": "", "output": "x" * size} for size in (most - 1, most + 1))
    writes = f"print('x' * {most - 1})"
    assert passed_tests(writes, [fits], any_sandbox) == [True]
    message = f"`output` of a test must have {most} bytes at most, what a program may write; got {most + 1}"
    with pytest.raises(ValueError, match=message):
        passed_tests(writes, [fits, more], any_sandbox)
    with pytest.raises(ValueError, match=f"of row 1 must fit each other: {message}"):
        call(CodeReward("soft", any_sandbox), [fenced(writes)] * 2, tests=[[fits], [more]])


def test_the_question_is_json(any_sandbox):
    """Arguments reach the function as they are, text with line ends and quotes too."""
    text = 'a\n"b"\u2028\''
    test = {"function": "same", "input": json.dumps([text]), "output": json.dumps(text)}
    assert call(CodeReward("soft", any_sandbox), [fenced("def same(x): return x")], tests=[[test]]) == [1.0]


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ({"input": "1"}, "`output` of a test must be a string, not None"),
        ({"input": 1, "output": "1"}, "`input` of a test must be a string, not 1"),
        ({**FUNCTION, "output": "five"}, "`output` of a test with `function` must be JSON"),
        ({**FUNCTION, "input": "2, 3"}, "`input` of a test with `function` must be JSON"),
        ({**FUNCTION, "input": "2"}, "must be a list of arguments"),
        ({**FUNCTION, "float_tolerance": -1}, "`float_tolerance`"),
        ({**FUNCTION, "float_tolerance": float("nan")}, "`float_tolerance`"),
        ({**FUNCTION, "timeout_s": -1}, "`timeout_s`"),
    ],
)
def test_a_test_that_cannot_be_judged_names_its_row_and_is_no_wrong_answer(test, words):
    good = {"input": "1", "output": "1", "function": None, "float_tolerance": None, "timeout_s": None}
    with pytest.raises(ValueError, match="row 1") as error:
        call(CodeReward("soft", Recorder()), [fenced("n")] * 2, tests=[[good], [good, test]])
    assert words in str(error.value)


COLUMNS = {"tests": [TESTS], "test_levels": [LEVELS], "level_scores": [WORTH]}
FIRST_THREE = fenced("n * n if n < 4 else 0")


def test_columns_of_a_data_set_do_not_replace_the_scheme_and_the_sandbox():
    """Not even such as have one row, or a value that would be a scheme."""
    for others in (
        {"scheme": ["vanilla"], "runner": ["me"]},
        {"scheme": [None], "runner": [None]},
        {"sandbox": ["subprocess"]},
    ):
        own = CodeReward("strict", Recorder())
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            assert call(own, [FIRST_THREE], **COLUMNS, **others) == [0.75]
        assert own.sandbox.runs


@pytest.mark.parametrize(
    ("scheme", "expected"), [("vanilla", 0), ("strict", 0.75), ("soft", 0.75 + 0.25 * 0), (None, 0.75)]
)
def test_a_scheme_and_a_runner_of_a_call_are_taken_for_one_more_release(scheme, expected):
    runner, own = Recorder(), CodeReward("strict", Recorder())
    with pytest.warns(FutureWarning, match=r"go with the next release: CodeReward\(scheme, sandbox\) has them"):
        assert call(own, [FIRST_THREE], scheme=scheme, runner=runner, **COLUMNS) == [expected]
    assert runner.runs
    assert not own.sandbox.runs
    with pytest.raises(ValueError, match="`scheme`"), pytest.warns(FutureWarning):
        call(own, [fenced("n")], scheme="hard", **COLUMNS)


def test_levels_and_scores_may_be_arrays():
    reward = CodeReward("soft", Recorder())
    found = call(
        reward,
        [fenced("n * n if n < 4 else 0")],
        tests=[TESTS],
        test_levels=np.array([LEVELS]),
        level_scores=np.array([WORTH]),
    )
    assert found == [0.75]
