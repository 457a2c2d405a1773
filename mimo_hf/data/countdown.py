"""Countdown: reach a target from given numbers by +, - and *, one step a line. Every problem has a solution."""

import operator
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "test")
TEST_SHARE = 5
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def countdown(
    split: str, num_problems: int, num_numbers: int = 3, max_number: int = 9, max_target: int = 99, seed: int = 0
) -> "Dataset":
    """
    Problems made from a random solution, so that each has one; all numbers must be used, each once.

    Args:
        split: `"train"` or `"test"`, by crc32 of the problem: no problem is in both.
        num_numbers: of a problem, which takes one step fewer.
        max_number, max_target: numbers are 1 to `max_number`, intermediate results and targets 0 to `max_target`.

    Returns:
        Distinct problems: `problem_id`, `numbers` (ascending), `target`, `prompt`, and `solution`, steps such as
        `3 * 4 = 12` separated by `; `.
    """
    from datasets import Dataset

    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}; got {split!r}.")
    if num_numbers < 2:
        raise ValueError(f"`num_numbers` must be at least 2; got {num_numbers}.")
    rng = random.Random(f"countdown:{split}:{seed}")
    rows: dict[str, dict[str, Any]] = {}
    misses = 0
    while len(rows) < num_problems:
        numbers = sorted(rng.randint(1, max_number) for _ in range(num_numbers))
        steps = _random_steps(numbers, max_target, rng)
        problem_id = f"{','.join(map(str, numbers))}:{steps[-1][3]}" if steps else ""
        is_test = zlib.crc32(problem_id.encode()) % TEST_SHARE == 0
        if not steps or problem_id in rows or is_test != (split == "test"):
            misses += 1
            if misses > 1000 * num_problems:
                raise ValueError(
                    f"`num_problems` must not be more than there are distinct problems for num_numbers={num_numbers}, "
                    f"max_number={max_number}, max_target={max_target}; got {num_problems}, and {len(rows)} were found. "
                    "Ask for fewer, or allow larger numbers."
                )
            continue
        target = steps[-1][3]
        rows[problem_id] = {
            "problem_id": problem_id,
            "numbers": numbers,
            "target": target,
            "prompt": f"{' '.join(map(str, numbers))} T {target} :",
            "solution": "; ".join(f"{a} {sign} {b} = {result}" for a, sign, b, result in steps),
        }
    return Dataset.from_list(list(rows.values()))


def reachable(numbers: Sequence[int], max_target: int = 99) -> set[int]:
    """Every target that the numbers reach, each used once, with all results 0 to `max_target`. By search."""
    if len(numbers) == 1:
        return {numbers[0]}
    targets = set()
    for rest, (_, _, _, result) in _steps(list(numbers), max_target):
        targets |= reachable([*rest, result], max_target)
    return targets


def check_steps(response: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the steps of a response are right, use every number once, and end with the target."""
    left = Counter(numbers)
    result = None
    for step in response.split(";"):
        parts = step.split()
        if len(parts) != 5 or parts[1] not in OPERATORS or parts[3] != "=":
            return False
        if not all(part.isdecimal() and len(part) <= 9 for part in (parts[0], parts[2], parts[4])):
            return False
        a, b, result = int(parts[0]), int(parts[2]), int(parts[4])
        left.subtract([a, b])
        if min(left.values()) < 0 or OPERATORS[parts[1]](a, b) != result:
            return False
        left[result] += 1
    return result == target and left.total() == 1


def countdown_reward(
    completions: Sequence[str], numbers: Sequence[Sequence[int]], target: Sequence[int], **columns: Any
) -> list[float]:
    """A TRL reward: 1 where `check_steps` accepts the completion, else 0."""
    return [float(check_steps(*row)) for row in zip(completions, numbers, target, strict=True)]


def _steps(numbers: list[int], max_target: int) -> Iterator[tuple[list[int], tuple[int, str, int, int]]]:
    """Every allowed step: the numbers it leaves, and (a, sign, b, result)."""
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i != j:
                rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
                for sign, function in OPERATORS.items():
                    result = function(a, b)
                    if 0 <= result <= max_target:
                        yield rest, (a, sign, b, result)


def _random_steps(numbers: list[int], max_target: int, rng: random.Random) -> list[tuple[int, str, int, int]]:
    steps = []
    while len(numbers) > 1:
        choices = list(_steps(numbers, max_target))
        if not choices:
            return []
        rest, step = rng.choice(choices)
        numbers = [*rest, step[3]]
        steps.append(step)
    return steps
