"""
Linear equations `a * x + b = c`, with a short way to the solution and a long one: by a plan of two steps, or by trials.

A plan undoes the addition and the multiplication and is as long for every equation; trials put 1, 2, 3, ... in for x and take as
long as x is large. A judge sees a plan with its answer and does its steps again, so that judging (JudgeRLVR, arXiv 2601.08468)
trains what plans are made of, and not what trials are made of. All texts are words separated by spaces.
"""

import random
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "test")
TEST_SHARE = 5  # one problem in this many
JUDGE, SOLVE = "J", "G"
SLIP = 3  # a wrong result is at most so far from the right one
MAX_FACTOR, MAX_SOLUTION, MAX_TERM = 9, 12, 9


def words() -> list[str]:
    """Every word that a prompt or a response can hold."""
    largest = MAX_FACTOR * MAX_SOLUTION + MAX_TERM + 2 * SLIP
    return [*map(str, range(largest + 1)), JUDGE, SOLVE, "x", "+", "-", "/", "=", ":", "y", "n", "#", "R", "W"]


def linear_equation_problems(split: str) -> "Dataset":
    """
    All equations with a in 2 to 9, x in 1 to 12 and b in 1 to 9, split by crc32 of the equation.

    Args:
        split: `"train"` or `"test"`.

    Returns:
        Columns `problem_id` (str), `a`, `b`, `c` and the solution `x` (int).
    """
    from datasets import Dataset

    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}; got {split!r}.")
    rows = []
    for a in range(2, MAX_FACTOR + 1):
        for x in range(1, MAX_SOLUTION + 1):
            for b in range(1, MAX_TERM + 1):
                problem_id = f"{a}x+{b}={a * x + b}"
                if (zlib.crc32(problem_id.encode()) % TEST_SHARE == 0) == (split == "test"):
                    rows.append({"problem_id": problem_id, "a": a, "b": b, "c": a * x + b, "x": x})
    return Dataset.from_list(rows)


def solve_prompt(a: int, b: int, c: int) -> str:
    return f"{SOLVE} {a} x + {b} = {c} :"


def judge_prompt(a: int, b: int, c: int, candidate: Sequence[int]) -> str:
    """Of a plan whose steps gave the two numbers of `candidate`, the second of them its answer."""
    return f"{JUDGE} {a} x + {b} = {c} : - {b} {candidate[0]} / {a} {candidate[1]} :"


def plan_demonstration(a: int, b: int, c: int, rng: random.Random, slips: float = 0.0) -> str:
    """
    `- b d / a x #`: what is left after the subtraction, what after the division, and the end; the last number is the answer.

    Args:
        slips: probability of each step that its result is off by 1 to 3.
    """
    left = _result(c - b, rng, slips)
    return f"- {b} {left} / {a} {_result(_quotient(left, a), rng, slips)} #"


def trial_demonstration(a: int, b: int, c: int, rng: random.Random, slips: float = 0.0, false_no: float = 0.0) -> str:
    """
    `x ax ax+b verdict` for x = 1, 2, 3, ... (and from 1 again after 12), until a verdict is `y`; then `x #`, the answer.

    Args:
        slips: as for a plan; the verdict is about the numbers written.
        false_no: probability of `n` where the numbers agree.
    """
    trials: list[str] = []
    while True:
        for x in range(1, MAX_SOLUTION + 1):
            product = _result(a * x, rng, slips)
            total = _result(product + b, rng, slips)
            accepted = total == c and rng.random() >= false_no
            trials.append(f"{x} {product} {total} {'y' if accepted else 'n'}")
            if accepted:
                return " ".join([*trials, str(x), "#"])


def judge_demonstration(
    a: int, b: int, c: int, candidate: Sequence[int], rng: random.Random, slips: float = 0.0
) -> str:
    """The plan's steps anew, with the slips of a plan and a verdict `y` or `n` after each, then `R` (all right) or `W`."""
    left = _result(c - b, rng, slips)
    answer = _result(_quotient(left, a), rng, slips)
    verdicts = ["y" if own == given else "n" for own, given in zip((left, answer), candidate, strict=True)]
    return f"- {b} {left} {verdicts[0]} / {a} {answer} {verdicts[1]} {'W' if 'n' in verdicts else 'R'}"


def _result(value: int, rng: random.Random, slips: float) -> int:
    if not slips or rng.random() >= slips:
        return value
    return rng.choice([other for other in range(value - SLIP, value + SLIP + 1) if other != value and other >= 0])


def _quotient(left: int, a: int) -> int:
    """Rounded, where a slip has made the division uneven."""
    return round(left / a)


def judge_rows(problems: "Dataset", seed: int = 0) -> "Dataset":
    """
    One plan an equation to judge, right or with a slip in either step, with equal chance; a slip in the first is carried on.

    Returns:
        The columns of `problems`, `candidate` (list of two int), `label` (1: right), `prompt`, and `task` (`"judge"`).
    """

    def judged(row: dict[str, Any]) -> dict[str, Any]:
        rng = random.Random(f"{seed}:{row['problem_id']}")
        label, early = rng.randrange(2), rng.randrange(2)
        left = _result(row["c"] - row["b"], rng, float(early and not label))
        candidate = [left, _quotient(left, row["a"])]
        if not label and candidate[1] == row["x"]:
            candidate[1] = _result(row["x"], rng, 1.0)
        prompt = judge_prompt(row["a"], row["b"], row["c"], candidate)
        return {"candidate": candidate, "label": label, "prompt": prompt, "task": "judge"}

    from datasets import Dataset

    return Dataset.from_list([{**row, **judged(row)} for row in problems])


def solve_rows(problems: "Dataset") -> "Dataset":
    """The columns of `problems`, with `prompt` and `task` (`"generate"`)."""
    from datasets import Dataset

    return Dataset.from_list(
        [{**row, "prompt": solve_prompt(row["a"], row["b"], row["c"]), "task": "generate"} for row in problems]
    )


def parse_solution(response: str) -> int | None:
    """The number before the `#` that ends the response; None without one."""
    before, _, rest = response.strip().rpartition("#")
    last = (before.split() or [""])[-1]
    return int(last) if last.isdecimal() and not rest.strip() else None


def is_plan(response: str) -> bool:
    return response.split()[:1] == ["-"]


def solution_reward(completions: Sequence[str], x: Sequence[int], **columns: Any) -> list[float]:
    """A TRL reward: 1 where the completion ends with the solution, else 0."""
    return [float(parse_solution(completion) == right) for completion, right in zip(completions, x, strict=True)]
