"""
Training sets for a judge: solution responses of several models, right and wrong ones in equal number a problem.

After arXiv 2601.08468, which publishes no thresholds; those here are our own.
"""

import random
import warnings
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

END_OF_THOUGHT = "</think>"
MAX_LENGTH_AUC = 0.65

Candidate = Mapping[str, Any]


def solution_response(completion: str) -> str | None:
    """What follows the last `</think>`, stripped; None if there is no such tag, as in a truncated completion."""
    _, tag, response = completion.rpartition(END_OF_THOUGHT)
    return response.strip() if tag else None


def build_judge_set(
    candidates: Iterable[Candidate],
    make_prompt: Callable[[str, str], Any],
    parse_answer: Callable[[str], Any],
    is_right: Callable[[Any, Any], bool] = lambda answer, gold: answer == gold,
    extract: Callable[[str], str | None] = solution_response,
    count_tokens: Callable[[str], int] = lambda text: len(text.split()),
    max_candidate_tokens: int = 1024,
    pass_rate_low: float = 0.0,
    pass_rate_high: float = 1.0,
    max_pairs_per_problem: int = 2,
    seed: int = 0,
    hard_negative_key: Callable[[Candidate], Any] | None = None,
    keep_unparseable: bool = False,
) -> "Dataset":
    """
    Labelled candidates, class-balanced within each problem, of problems that are neither hopeless nor solved.

    Dropped are candidates without a solution response, empty or over-long ones, those whose answer can't be parsed (they are
    trivially wrong) or has no `solution` to compare it with, and exact repetitions within a problem. A problem stays if its pass
    rate over the rest is strictly between `pass_rate_low` and `pass_rate_high`. Wrong candidates with the more frequent wrong
    answers come first, as the more plausible errors, and source models take turns. A problem's rows depend on its own
    candidates and the seed alone.

    Args:
        candidates: mappings with `problem_id`, `problem`, `completion`, `source_model` and `solution` (the right answer).
        make_prompt: the judge's prompt of a problem and a candidate.
        parse_answer: the final answer in a solution response, or None. Answers must be hashable.
        is_right: whether an answer equals the problem's `solution`.
        extract: the solution response in a completion, or None. `str.strip` for models that do not think.
        max_pairs_per_problem: right and wrong candidates each.
        hard_negative_key: sort key of the wrong candidates (mappings with `candidate`, `answer`, `source_model`, `problem`,
            `problem_id` and `solution`), the lowest first; None: as above.
        keep_unparseable: keep candidates without an answer, as wrong ones.

    Returns:
        Columns `prompt`, `label` (1: right), `problem_id`, `candidate`, `source_model`, `pass_rate`, `solution` (for
        audit: `make_prompt` does not get it) and `task` (`"judge"`).

    Raises:
        ValueError: if nothing is left, with a table of reasons.
    """
    from datasets import Dataset

    if not 0 <= pass_rate_low < pass_rate_high <= 1:
        raise ValueError(
            f"`pass_rate_low` and `pass_rate_high` must be in [0, 1], the first below the second; got {pass_rate_low} and "
            f"{pass_rate_high}."
        )
    if max_pairs_per_problem < 1:
        raise ValueError(f"`max_pairs_per_problem` must be at least 1; got {max_pairs_per_problem}.")
    reasons: Counter[str] = Counter()
    problems: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for candidate in candidates:
        usable, reason = _usable(candidate, extract, parse_answer, count_tokens, max_candidate_tokens)
        if usable is None or (usable["answer"] is None and not keep_unparseable):
            reasons[reason or "no answer found"] += 1
        else:
            answer = usable["answer"]
            usable["label"] = int(answer is not None and is_right(answer, candidate["solution"]))
            problems[candidate["problem_id"]].append(usable)

    rows = []
    for problem_id, group in problems.items():
        # Sorted, so that the order in which candidates were sampled does not matter.
        ordered = sorted(group, key=lambda row: (row["source_model"], row["candidate"]), reverse=True)
        distinct = {row["candidate"]: row for row in ordered}
        reasons["repeated"] += len(group) - len(distinct)
        group = list(distinct.values())
        pass_rate = sum(row["label"] for row in group) / len(group)
        if not pass_rate_low < pass_rate < pass_rate_high:
            reasons[f"pass rate of the problem not in ({pass_rate_low:g}, {pass_rate_high:g})"] += len(group)
            continue
        rng = random.Random(f"{seed}:{problem_id}")
        for row in _balanced(group, max_pairs_per_problem, hard_negative_key, rng):
            del row["answer"]
            prompt = make_prompt(row.pop("problem"), row["candidate"])
            rows.append({"prompt": prompt, "pass_rate": pass_rate, "task": "judge", **row})
    if not rows:
        table = "\n".join(f"  {count:6d}  {reason}" for reason, count in reasons.most_common()) or "  none given"
        raise ValueError(
            f"`candidates` must leave some for the judge's training set; got none. Dropped:\n{table}\nSample more "
            "candidates, from several models, for problems of medium difficulty."
        )
    auc = length_auc([count_tokens(row["candidate"]) for row in rows], [row["label"] for row in rows])
    if max(auc, 1 - auc) > MAX_LENGTH_AUC:
        warnings.warn(
            f"The length of a candidate alone tells right from wrong with an AUC of {auc:.2f}: the judge may learn lengths. "
            "Sample wrong candidates as long as right ones.",
            stacklevel=2,
        )
    return Dataset.from_list(rows)


def length_auc(lengths: Sequence[float], labels: Sequence[int]) -> float:
    """Probability that a right candidate is longer than a wrong one, ties counting half; 0.5 if a class is missing."""
    right = [length for length, label in zip(lengths, labels, strict=True) if label]
    wrong = sorted(length for length, label in zip(lengths, labels, strict=True) if not label)
    if not right or not wrong:
        return 0.5
    wins = sum((bisect_left(wrong, length) + bisect_right(wrong, length)) / 2 for length in right)
    return wins / (len(right) * len(wrong))


def _usable(candidate, extract, parse_answer, count_tokens, max_tokens) -> tuple[dict[str, Any] | None, str]:
    response = extract(candidate["completion"])
    if response is None:
        return None, f"no solution response{f' (no {END_OF_THOUGHT})' if extract is solution_response else ''}"
    if not response:
        return None, "empty"
    if count_tokens(response) > max_tokens:
        return None, f"longer than {max_tokens} tokens"
    if candidate["solution"] is None:
        return None, "no `solution` to compare with"
    kept = {name: candidate[name] for name in ("problem_id", "problem", "source_model", "solution")}
    return {**kept, "candidate": response, "answer": parse_answer(response)}, ""


def _balanced(
    group: list[dict[str, Any]],
    max_pairs: int,
    hard_negative_key: Callable[[Candidate], Any] | None,
    rng: random.Random,
) -> list[dict[str, Any]]:
    """As many right as wrong candidates, at most `max_pairs` of each, in random order."""
    group = rng.sample(group, len(group))
    right = [row for row in group if row["label"]]
    wrong = [row for row in group if not row["label"]]
    frequency = Counter(row["answer"] for row in wrong)
    wrong.sort(key=hard_negative_key or (lambda row: -frequency[row["answer"]]))
    count = min(len(right), len(wrong), max_pairs)
    chosen = _take_turns(right, count) + _take_turns(wrong, count)
    rng.shuffle(chosen)
    return chosen


def _take_turns(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first rows, each source model's first before any one's second."""
    turns: Counter[str] = Counter()
    order = []
    for position, row in enumerate(rows):
        order.append((turns[row["source_model"]], position))
        turns[row["source_model"]] += 1
    return [rows[position] for _, position in sorted(order)[:count]]
