"""
Linear equations `a * x + b = c`, with a short way to the solution and a long one: by a plan of two steps, or by trials.

A plan undoes the addition and the multiplication and is as long for every equation; trials put 1, 2, 3, ... in for x and take as
long as x is large. What a judge of JudgeRLVR (arXiv 2601.08468) sees and does comes in two forms. It checks an answer, as a
response checks its plan before it falls back on trials (`checked_demonstration`, `check_rows`); or it does the steps of a plan
again, which is what plans are made of and trials are not (`plan_demonstration`, `trial_demonstration`, `judge_rows`). All texts are
words separated by spaces.
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
MAX_FACTOR, MAX_SOLUTION, MAX_TERM = 9, 9, 9


def words() -> list[str]:
    """Every word that a prompt or a response can hold."""
    largest = MAX_FACTOR * (MAX_SOLUTION + SLIP) + MAX_TERM
    return [*map(str, range(largest + 1)), JUDGE, SOLVE, "x", "+", "-", "/", "=", ":", "y", "n", "#", "R", "W"]


def linear_equation_problems(split: str) -> "Dataset":
    """
    All equations with a in 2 to 9, x in 1 to 9 and b in 1 to 9, split by crc32 of the equation.

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
    `x ax ax+b verdict` for x = 1, 2, 3, ... (and from 1 again after 9), until a verdict is `y`; then `x #`, the answer.

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


def checked_demonstration(
    a: int, b: int, c: int, rng: random.Random, slips: float = 0.0, false_no: float = 0.0, false_yes: float = 0.0
) -> str:
    """
    A plan, a check of its answer, and trials if the check says no: `- b d / a x ax ax+b n 1 a a+b n 2 ... y #`.

    Args:
        slips: of the plan, as for `plan_demonstration`; checks multiply and add rightly.
        false_no: probability of `n` on an answer that is right, so that it is doubted; after 9 trials follow from 1 again.
        false_yes: probability of `y` on an answer that is wrong.
    """
    words = plan_demonstration(a, b, c, rng, slips).split()[:-1]
    answer = int(words[-1])
    while True:
        total, accepted = _check(a, b, c, answer, rng, false_no, false_yes)
        words += [str(a * answer), str(total), "y" if accepted else "n"]
        if accepted:
            return " ".join([*words, "#"])
        first = words[0] == "-" and len(words) == 9
        answer = 1 if first else answer % MAX_SOLUTION + 1
        words.append(str(answer))


def check_demonstration(
    a: int, b: int, c: int, answer: int, rng: random.Random, false_no: float = 0.0, false_yes: float = 0.0
) -> str:
    """`ax ax+b verdict` of an answer, with the noise of `checked_demonstration`, then `R` (right) or `W` as it says."""
    total, accepted = _check(a, b, c, answer, rng, false_no, false_yes)
    return f"{a * answer} {total} {'y R' if accepted else 'n W'}"


def _check(
    a: int, b: int, c: int, answer: int, rng: random.Random, false_no: float, false_yes: float
) -> tuple[int, bool]:
    total = a * answer + b
    return total, rng.random() >= false_no if total == c else rng.random() < false_yes


def _result(value: int, rng: random.Random, slips: float) -> int:
    if not slips or rng.random() >= slips:
        return value
    return rng.choice([other for other in range(value - SLIP, value + SLIP + 1) if other != value and other >= 0])


def _quotient(left: int, a: int) -> int:
    """Rounded, where a slip has made the division uneven."""
    return round(left / a)


def check_prompt(a: int, b: int, c: int, answer: int) -> str:
    return f"{JUDGE} {a} x + {b} = {c} : {answer} :"


def check_rows(problems: "Dataset", seed: int = 0) -> "Dataset":
    """
    One answer an equation to check, right or off by 1 to 3 with equal chance.

    Returns:
        The columns of `problems`, `candidate` (int), `label` (1: right), `prompt`, and `task` (`"judge"`).
    """
    from datasets import Dataset

    rows = []
    for row in problems:
        rng = random.Random(f"{seed}:{row['problem_id']}")
        label = rng.randrange(2)
        candidate = _result(row["x"], rng, 1.0 - label)
        prompt = check_prompt(row["a"], row["b"], row["c"], candidate)
        rows.append({**row, "candidate": candidate, "label": label, "prompt": prompt, "task": "judge"})
    return Dataset.from_list(rows)


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
    """
    The answer of a response that ends with `#`: what its last check, `x ax ax+b y`, accepts, or else the number before the `#`.
    """
    before, _, rest = response.strip().rpartition("#")
    words = before.split()
    answer = words[-4:][0] if words[-1:] == ["y"] else (words or [""])[-1]
    return int(answer) if answer.isdecimal() and not rest.strip() else None


def is_plan(response: str) -> bool:
    """Whether a response is a plan, with at most the check of its answer, and no trial."""
    words = response.split()
    return words[:1] == ["-"] and len(words) <= 10


def solution_reward(completions: Sequence[str], x: Sequence[int], **columns: Any) -> list[float]:
    """A TRL reward: 1 where the completion ends with the solution, else 0."""
    return [float(parse_solution(completion) == right) for completion, right in zip(completions, x, strict=True)]
