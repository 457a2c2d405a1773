"""Rewards for programs by the tests they pass, weighed by the difficulty of the tests (MiMo, arXiv 2505.07608, section 3.3.1)."""

import asyncio
import json
import math
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..processes.program_pool import Limits
from . import difficulty
from .code_options import CodeRewardOptions
from .completions import completion_text, last_code_block, same_length
from .difficulty import SCHEMES, score
from .notices import warn_once
from .sandbox import Sandbox, shared_sandbox

Test = Mapping[str, Any]


class SandboxFailure(RuntimeError):
    """A program could not be run, which says nothing about it."""


def passes(source: str, test: Test, sandbox: Sandbox) -> bool:
    """
    Whether a program passes a test. The expected output stays in this process.

    Args:
        source: of the program.
        test: `input` and `output` of standard streams; or, with `function` ("f" or "Class.method"), the JSON of the list of arguments
            and of the value. Optional: `float_tolerance` (absolute or relative), `timeout_s`.

    Raises:
        SandboxFailure: the program could not be run.
    """
    limits = sandbox.limits
    if test.get("timeout_s"):
        limits = replace(limits, timeout_s=test["timeout_s"])
    tolerance = test.get("float_tolerance") or 0.0
    function = test.get("function")
    if not function:
        result = sandbox.run(source, test["input"], limits)
    else:
        nonce = secrets.token_hex(16)
        asked = {"function": function, "arguments": json.loads(test["input"]), "nonce": nonce}
        result = sandbox.run(source, json.dumps(asked), limits, call=True)
    if result.status == "infra":
        raise SandboxFailure(result.stderr)
    if result.status != "ok":
        return False
    if not function:
        return same_output(result.stdout, test["output"], tolerance)
    line = result.stdout.rstrip("\n").rpartition("\n")[2]
    if not line.startswith(nonce):
        return False
    try:
        return same_value(json.loads(line.removeprefix(nonce)), json.loads(test["output"]), tolerance)
    except (ValueError, RecursionError):
        return False


def same_output(found: str, expected: str, tolerance: float = 0.0) -> bool:
    """Equal lines, but for white space at the ends of lines and of the output; with a tolerance, words that are numbers are near."""
    ours, theirs = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (found, expected))
    if ours == theirs:
        return True
    if not tolerance or len(ours) != len(theirs):
        return False
    pairs = [(a.split(), b.split()) for a, b in zip(ours, theirs, strict=True)]
    return all(
        len(a) == len(b) and all(x == y or _near(x, y, tolerance) for x, y in zip(a, b, strict=True)) for a, b in pairs
    )


def same_value(found: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Equal as JSON; true and 1 differ, and NaN is NaN."""
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(same_value(a, b, tolerance) for a, b in zip(found, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same_value(found[key], expected[key], tolerance) for key in expected)
        )
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if expected != expected:  # NaN is no number, but it may be the right answer
        return isinstance(found, float) and math.isnan(found)
    if found == expected or not tolerance:
        return found == expected
    return all(isinstance(value, int | float) for value in (found, expected)) and _near(found, expected, tolerance)


def _near(found: Any, expected: Any, tolerance: float) -> bool:
    try:
        return math.isclose(float(found), float(expected), rel_tol=tolerance, abs_tol=tolerance)
    except (ValueError, OverflowError):
        return False


def _check(test: Test, output_bytes: int):
    """ValueError unless a test is one that `passes` can judge: what is wrong with it must not count against a program."""
    for name in ("input", "output"):
        if not isinstance(test.get(name), str):
            raise ValueError(f"`{name}` of a test must be a string, not {test.get(name)!r:.200}.")
        if test.get("function"):
            try:
                value = json.loads(test[name])
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"`{name}` of a test with `function` must be JSON ({error}): {test[name]!r:.200}"
                ) from error
            if name == "input" and not isinstance(value, list):
                raise ValueError(
                    f"`input` of a test with `function` must be a list of arguments, not {test[name]!r:.200}."
                )
    size = len(test["output"].rstrip().encode("utf-8", "surrogatepass"))
    if size > output_bytes:
        raise ValueError(
            f"`output` of a test must have {output_bytes} bytes at most, what a program may write; got {size}. "
            "Leave the test out, or raise `output_bytes` of the sandbox's limits."
        )
    if not 0 <= (test.get("float_tolerance") or 0.0) < math.inf:
        raise ValueError(f"`float_tolerance` of a test must be a number from 0, not {test['float_tolerance']!r}.")
    if test.get("timeout_s"):
        Limits(timeout_s=test["timeout_s"])


def passed_tests(
    source: str,
    tests: Sequence[Test],
    sandbox: Sandbox,
    stop_at_failure: bool = False,
    order: Sequence[int] | None = None,
) -> list[bool]:
    """
    Whether a program passes each test. `pass_rates` of these rows, of several models, are what `grade_tests` needs.

    Args:
        stop_at_failure: don't run the tests after the first one that fails; they count as failed.
        order: indices of the tests in the order to run them.

    Raises:
        ValueError: a test that no program can pass, such as one whose output is longer than a program may write.
        SandboxFailure: a program could not be run.
    """
    for test in tests:
        _check(test, sandbox.limits.output_bytes)
    return _run_tests(source, tests, sandbox, stop_at_failure, order)


def _run_tests(
    source: str, tests: Sequence[Test], sandbox: Sandbox, stop_at_failure: bool, order: Sequence[int] | None
) -> list[bool]:
    verdicts = [False] * len(tests)
    for index in range(len(tests)) if order is None else order:
        verdicts[index] = passes(source, tests[index], sandbox)
        if stop_at_failure and not verdicts[index]:
            break
    return verdicts


class CodeReward:
    """
    A TRL reward function: what the last code block of a completion earns by the tests it passes. It needs a column `tests` (for each
    row a list of tests, see `passes`), and takes `test_levels` and `level_scores` (see `grade_tests`); without them all tests are
    one level. A completion without code earns 0. A row whose program could not be run gets None, and is counted.

    Args:
        scheme: "vanilla", "strict" or "soft" (see `score`).
        sandbox: where the programs run; None: one that all rewards of this process share.
        early_stop: end a program's tests at the first failure, easiest first; None: wherever that changes nothing, so not for "soft".
        keep_warm: keep the sandbox's processes for the next batch. Turn it off where a call must leave nothing behind, such as in
            an action of the scheduler.

    Every argument by name is a column: a data set may have columns `scheme` or `runner`, which change nothing.

    Example:

    ```python
    >>> tests = [{"input": "3", "output": "9"}]
    >>> await CodeReward("soft")(["```python\nprint(int(input()) ** 2)\n```"], tests=[tests])
    [1.0]
    ```

    Logs `reward/infra_fail`, rows whose program could not be run, and `reward/no_code`, completions without code, as shares.
    """

    def __init__(
        self,
        scheme: str = "strict",
        sandbox: Sandbox | None = None,
        early_stop: bool | None = None,
        keep_warm: bool = True,
    ):
        if scheme not in SCHEMES:
            raise ValueError(f"`scheme` must be one of {', '.join(SCHEMES)}, not {scheme!r}.")
        if early_stop and scheme == "soft":
            raise ValueError("`early_stop` must be False for soft rewards, which count every test; got True.")
        self.scheme, self.sandbox, self.keep_warm = scheme, sandbox, keep_warm
        self.early_stop = scheme != "soft" if early_stop is None else early_stop
        self.__name__ = "test_difficulty_code_reward" if scheme == "strict" else f"{scheme}_code_reward"

    @classmethod
    def from_args(cls, args: CodeRewardOptions) -> "CodeReward":
        """With the scheme and a sandbox as the options say."""
        if not isinstance(args, CodeRewardOptions):
            raise TypeError(
                f"`args` must be CodeRewardOptions; got {type(args).__name__}. The options `code_reward_scheme` and `sandbox*` are "
                "there: parse both with TrlParser((MiMoRLConfig, CodeRewardOptions))."
            )
        limits = Limits(timeout_s=args.sandbox_timeout_s, memory_bytes=args.sandbox_memory_mb << 20)
        return cls(args.code_reward_scheme, Sandbox(args.sandbox, args.sandbox_workers, limits))

    async def __call__(
        self,
        completions: Sequence[Any] = (),
        tests: Sequence[Sequence[Test]] | None = None,
        test_levels: Sequence[Sequence[int]] | None = None,
        level_scores: Sequence[Sequence[float]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        scheme, runner = columns.get("scheme"), columns.get("runner")
        if isinstance(scheme, str) or hasattr(runner, "run"):
            warnings.warn(
                "`scheme` and `runner` of a call go with the next release: CodeReward(scheme, sandbox) has them.",
                FutureWarning,
                stacklevel=2,
            )
            other = CodeReward(
                scheme if isinstance(scheme, str) else self.scheme,
                runner if hasattr(runner, "run") else self.sandbox,
                keep_warm=self.keep_warm,
            )
            return await other(completions, tests, test_levels, level_scores, log_metric=log_metric)
        same_length(completions=completions, tests=tests)
        if self.scheme == "strict" and (test_levels is None or all(levels is None for levels in test_levels)):
            warn_once(
                f"{self.__name__}: the rows have no `test_levels`, so all tests are one level and a program earns 1 or 0, as with "
                "vanilla_code_reward. For partial rewards by difficulty, add the columns `test_levels` and `level_scores` that "
                "`mimo_hf.rewards.grade_tests` makes of pass rates (recipe in the rewards' guide), or use soft_code_reward.",
                key="no test_levels",
            )
        sandbox = self.sandbox or shared_sandbox()
        rows = self._rows(tests, test_levels, level_scores, sandbox.limits.output_bytes)
        programs = [last_code_block(completion_text(completion)) for completion in completions]
        # Samples of a group are often the same program: each is run once for each problem.
        wanted = {
            (program, _key(row)): (program, *row)
            for program, row in zip(programs, rows, strict=True)
            if program is not None
        }
        slots = asyncio.Semaphore(sandbox.workers)

        async def one(program: str, *row: Any) -> float | None:
            async with slots:
                return await asyncio.to_thread(self._score, sandbox, program, *row)

        try:
            scores = dict(zip(wanted, await asyncio.gather(*(one(*work) for work in wanted.values())), strict=True))
        finally:
            if not self.keep_warm:
                await asyncio.to_thread(sandbox.close)
        rewards = [
            0.0 if program is None else scores[program, _key(row)] for program, row in zip(programs, rows, strict=True)
        ]
        if log_metric is not None and rewards:
            log_metric("reward/infra_fail", sum(reward is None for reward in rewards) / len(rewards))
            log_metric("reward/no_code", sum(program is None for program in programs) / len(rewards))
        return rewards

    def _rows(self, tests: Any, test_levels: Any, scores: Any, output_bytes: int) -> list[tuple]:
        rows = []
        for index, own in enumerate(tests):
            try:
                for test in own:
                    _check(test, output_bytes)
                levels = _row(test_levels, index) or [0] * len(own)
                worth = _row(scores, index) or difficulty.level_scores(levels)
                score([False] * len(own), levels, worth, self.scheme)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"`tests`, `test_levels` and `level_scores` of row {index} must fit each other: {error}"
                ) from error
            rows.append((own, levels, worth))
        return rows

    def _score(
        self, sandbox: Sandbox, program: str, tests: Sequence[Test], levels: Sequence[int], worth: Sequence[float]
    ) -> float | None:
        easiest_first = sorted(range(len(tests)), key=levels.__getitem__)
        try:
            verdicts = _run_tests(program, tests, sandbox, self.early_stop, easiest_first)
        except SandboxFailure:
            return None
        return score(verdicts, levels, worth, self.scheme)


def _row(column: Sequence[Sequence[Any]] | None, index: int) -> list[Any]:
    """A row of a column; empty if there is none."""
    return [] if column is None or column[index] is None else list(column[index])


def _key(row: tuple) -> str:
    return json.dumps(row, default=str, sort_keys=True)


test_difficulty_code_reward = CodeReward(
    "strict"
)  # a level of tests counts where all of it and of the easier ones pass
soft_code_reward = CodeReward("soft")  # each test counts for itself, by the score of its level
vanilla_code_reward = CodeReward("vanilla")  # 1 where all tests pass, else 0
