"""
PairSum and DoubtSearch: find the two numbers that sum to a target, by trials that are themselves checks.

Both stages of JudgeRLVR (arXiv 2601.08468) need one skill here, checking a pair, so that judging can carry over to solving.
All texts are words separated by spaces, for a tokenizer of one token a word: `words()` lists them.
"""

import random
import zlib
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "test")
TEST_SHARE = 5  # one problem in this many
JUDGE, SOLVE = "J", "G"
SLIP = 3  # a wrong sum is at most so far from the right one


def words(max_number: int = 12) -> list[str]:
    """Every word that a prompt or a response of numbers up to `max_number` can hold."""
    return [*map(str, range(2 * max_number + SLIP + 1)), JUDGE, SOLVE, "T", ":", "y", "n", "#", "R", "W"]


def pair_sum_problems(split: str, num_numbers: int = 3, max_number: int = 12) -> "Dataset":
    """
    Sets of distinct numbers with a target that exactly one pair of them sums to.

    The split depends on the problem alone (crc32 of its numbers and target), so that no problem is in both.

    Args:
        split: `"train"` or `"test"`.
        num_numbers: of a problem, at least 3.
        max_number: numbers are 1 to this.

    Returns:
        Columns `problem_id` (str), `numbers` (list of int, ascending), `target`, `pair` (the solution, ascending).
    """
    from datasets import Dataset

    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}; got {split!r}.")
    if not 3 <= num_numbers <= max_number:
        raise ValueError(f"`num_numbers` must be 3 to max_number={max_number}; got {num_numbers}.")
    rows = []
    for numbers in combinations(range(1, max_number + 1), num_numbers):
        pairs: dict[int, list[tuple[int, int]]] = {}
        for pair in combinations(numbers, 2):
            pairs.setdefault(sum(pair), []).append(pair)
        for target, solutions in sorted(pairs.items()):
            problem_id = f"{','.join(map(str, numbers))}:{target}"
            is_test = zlib.crc32(problem_id.encode()) % TEST_SHARE == 0
            if len(solutions) == 1 and is_test == (split == "test"):
                rows.append(
                    {"problem_id": problem_id, "numbers": list(numbers), "target": target, "pair": list(solutions[0])}
                )
    return Dataset.from_list(rows)


def solve_prompt(numbers: Sequence[int], target: int) -> str:
    return f"{SOLVE} {' '.join(map(str, numbers))} T {target} :"


def judge_prompt(numbers: Sequence[int], target: int, pair: Sequence[int]) -> str:
    return f"{JUDGE} {' '.join(map(str, numbers))} T {target} {pair[0]} {pair[1]} :"


def solve_demonstration(
    numbers: Sequence[int],
    target: int,
    rng: random.Random,
    false_no: float = 0.7,
    false_yes: float = 0.02,
    wrong_sum: float = 0.0,
    straight: float = 0.0,
) -> str:
    """
    Trials `a b sum verdict` of pairs in random order, and anew when all were tried, until a verdict is `y`; then `#`.

    Args:
        false_no: probability of `n` on a sum that is the target, so that a found solution is doubted.
        false_yes: probability of `y` on a sum that is not.
        wrong_sum: probability that the sum written is off by 1 to 3; the verdict is about the one written.
        straight: probability that the first pair is the right one, beside those that are it by chance.
    """
    trials: list[str] = []
    pairs = list(combinations(numbers, 2))
    first = [pair for pair in pairs if sum(pair) == target] if straight and rng.random() < straight else []
    while True:
        for pair in [*first, *rng.sample(pairs, k=len(pairs))]:
            total, accepted = _check(pair, target, rng, false_no, false_yes, wrong_sum)
            a, b = rng.sample(pair, 2)
            trials.append(f"{a} {b} {total} {'y' if accepted else 'n'}")
            if accepted:
                return " ".join([*trials, "#"])
        first = []


def judge_demonstration(
    pair: Sequence[int],
    target: int,
    rng: random.Random,
    false_no: float = 0.7,
    false_yes: float = 0.02,
    wrong_sum: float = 0.0,
) -> str:
    """One trial of the pair, with the noise of `solve_demonstration`, then `R` (right) or `W` (wrong) as it says."""
    a, b = pair
    total, accepted = _check(pair, target, rng, false_no, false_yes, wrong_sum)
    return f"{a} {b} {total} {'y R' if accepted else 'n W'}"


def _check(
    pair: Sequence[int], target: int, rng: random.Random, false_no: float, false_yes: float, wrong_sum: float
) -> tuple[int, bool]:
    """The sum as written, and the verdict."""
    total = sum(pair)
    if wrong_sum and rng.random() < wrong_sum:
        total = rng.choice([value for value in range(total - SLIP, total + SLIP + 1) if value not in (total, -1, -2)])
    return total, rng.random() >= false_no if total == target else rng.random() < false_yes


def judge_rows(problems: "Dataset", seed: int = 0) -> "Dataset":
    """
    One candidate pair a problem: right or wrong with equal chance, in random order.

    Returns:
        The columns of `problems`, `candidate` (list of two int), `label` (1: right), `prompt`, and `task` (`"judge"`).
    """

    def judged(row: dict[str, Any]) -> dict[str, Any]:
        rng = random.Random(f"{seed}:{row['problem_id']}")
        label = rng.randrange(2)
        wrong = [pair for pair in combinations(row["numbers"], 2) if list(pair) != row["pair"]]
        candidate = rng.sample(row["pair"] if label else rng.choice(wrong), 2)
        prompt = judge_prompt(row["numbers"], row["target"], candidate)
        return {"candidate": candidate, "label": label, "prompt": prompt, "task": "judge"}

    from datasets import Dataset

    return Dataset.from_list([{**row, **judged(row)} for row in problems])


def solve_rows(problems: "Dataset") -> "Dataset":
    """The columns of `problems`, with `prompt` and `task` (`"generate"`)."""
    from datasets import Dataset

    return Dataset.from_list(
        [{**row, "prompt": solve_prompt(row["numbers"], row["target"]), "task": "generate"} for row in problems]
    )


def parse_pair(response: str) -> tuple[int, int] | None:
    """The pair of the last trial of a response that ends with `#`, in ascending order; None without an answer."""
    trials, _, rest = response.strip().rpartition("#")
    last = trials.split()[-4:]
    if rest.strip() or len(last) < 4 or not all(number.isdecimal() and len(number) <= 9 for number in last[:2]):
        return None
    a, b = sorted((int(last[0]), int(last[1])))
    return a, b


def parse_judgement(response: str) -> int | None:
    """1 if the response ends with `R`, 0 if with `W`, None otherwise."""
    return {"R": 1, "W": 0}.get((response.split() or [""])[-1])


def pair_reward(completions: Sequence[str], pair: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """A TRL reward: 1 where the completion answers with the right pair, else 0."""
    return [float(parse_pair(completion) == tuple(right)) for completion, right in zip(completions, pair, strict=True)]


def judgement_reward(completions: Sequence[str], label: Sequence[int], **columns: Any) -> list[float]:
    """A TRL reward: 1 where the completion's judgement is the label, else 0."""
    return [float(parse_judgement(completion) == right) for completion, right in zip(completions, label, strict=True)]
