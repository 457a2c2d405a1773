"""
Four tasks on a row of symbols, as domains for one student and several teachers: add, sort, reverse, and a running sum.

All texts are symbols separated by spaces, for a tokenizer of one token a symbol: `words()` lists them. The first symbol of a prompt
names the task. In `running_sum` every digit of the answer builds on the one before it, so one slip spoils all that follows.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "test")
TEST_SHARE = 5  # one problem in this many
DIGITS, LETTERS = "0123456789", "abcdefghij"
STEP = 3  # what `add` adds


class Task(NamedTuple):
    """
    Attributes:
        mark: first symbol of a prompt.
        symbols: what a problem is made of.
        length: symbols of a problem, and of its answer.
        solve: a problem's answer.
    """

    mark: str
    symbols: str
    length: int
    solve: Callable[[str], str]


def _add(problem: str) -> str:
    return "".join(str((int(digit) + STEP) % 10) for digit in problem)


def _sort(problem: str) -> str:
    return "".join(sorted(problem))


def _reverse(problem: str) -> str:
    return problem[::-1]


def _running_sum(problem: str) -> str:
    return "".join(str(total % 10) for total in accumulate(map(int, problem)))


TASKS = {
    "add": Task("A", DIGITS, 7, _add),
    "sort": Task("S", DIGITS, 6, _sort),
    "reverse": Task("R", LETTERS, 7, _reverse),
    "running_sum": Task("C", DIGITS, 24, _running_sum),
}


def words() -> list[str]:
    """Every symbol that a prompt or an answer can hold."""
    return [*DIGITS, *LETTERS, *(task.mark for task in TASKS.values()), "="]


def symbol_task(domain: str, split: str, num_problems: int, length: int | None = None, seed: int = 0) -> "Dataset":
    """
    Random problems of one domain, each with its answer.

    The split depends on the problem alone (crc32), so that no problem is in both. Problems may repeat where there are few.

    Args:
        domain: `"add"` (3 to each digit, modulo 10), `"sort"` (digits in ascending order), `"reverse"` (letters from last to first)
            or `"running_sum"` (of the digits so far, modulo 10).
        split: `"train"` or `"test"`.
        length: symbols of a problem; None: 7, 6, 7 and 24, in the order above.

    Returns:
        Columns `problem_id`, `prompt`, `answer` and `domain`, all text.
    """
    from datasets import Dataset

    if domain not in TASKS:
        raise ValueError(f"`domain` must be one of {', '.join(map(repr, TASKS))}; got {domain!r}.")
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}; got {split!r}.")
    for name, value in (("num_problems", num_problems), ("length", length)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")
    task = TASKS[domain]
    rng = random.Random(f"{domain}:{split}:{seed}")
    rows: list[dict[str, str]] = []
    while len(rows) < num_problems:
        problem = "".join(rng.choices(task.symbols, k=length or task.length))
        problem_id = f"{task.mark}{problem}"
        if (zlib.crc32(problem_id.encode()) % TEST_SHARE == 0) == (split == "test"):
            prompt, answer = f"{' '.join(problem_id)} =", " ".join(task.solve(problem))
            rows.append({"problem_id": problem_id, "prompt": prompt, "answer": answer, "domain": domain})
    return Dataset.from_list(rows)


def exact_match_reward(completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float]:
    """A TRL reward: 1 where the completion is the answer, symbol by symbol, else 0."""
    return [float(completion.split() == right.split()) for completion, right in zip(completions, answer, strict=True)]
