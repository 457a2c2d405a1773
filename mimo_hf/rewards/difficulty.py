"""
Levels of test difficulty, and what a program earns that passes some of the tests.

Source: MiMo (arXiv 2505.07608), section 3.3.1. How tests are grouped and what a level is worth is not in the report: thresholds and
equal shares are our choice.
"""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)
METHODS = ("thresholds", "jenks", "quantile")
SCHEMES = ("vanilla", "strict", "soft")


@dataclass(frozen=True)
class TestLevels:
    """
    Levels of one problem's tests, the columns of `test_difficulty_code_reward`.

    Args:
        kept: indices of the tests that remain.
        test_levels: level of each kept test, 0 is the easiest; every level has a test.
        level_scores: what each level is worth; they sum to 1.
    """

    __test__ = False  # the name is the paper's: pytest must not collect it
    kept: list[int]
    test_levels: list[int]
    level_scores: list[float]


def pass_rates(rollouts: Sequence[Sequence[bool | None]]) -> list[float]:
    """
    p_j, the mean over models and their rollouts of "passes test j".

    Args:
        rollouts: one row a program, of all models, one verdict a test; None (not known) is left out.
    """
    if not len(rollouts) or len({len(row) for row in rollouts}) != 1:
        raise ValueError("`rollouts` must hold at least one row, all of one verdict a test; got none.")
    rates = []
    for index, column in enumerate(zip(*rollouts, strict=True)):
        known = [verdict for verdict in column if verdict is not None]
        wrong = [verdict for verdict in known if verdict not in (0, 1)]
        if wrong or not known:
            seen = repr(wrong[0]) if wrong else "no verdict, so run it again"
            raise ValueError(
                f"`rollouts` must hold True, False or None on test {index}, and a verdict at least; got {seen}."
            )
        rates.append(sum(map(bool, known)) / len(known))
    return rates


def assign_levels(
    pass_rates: Sequence[float],
    n_levels: int = 3,
    method: str = "thresholds",
    thresholds: Sequence[float] = (0.3, 0.7),
) -> list[int]:
    """
    The level of each test, 0 is the easiest; empty levels are left out. Tests with equal pass rates share a level, and the order of
    the tests does not matter.

    Args:
        pass_rates: of each test, in 0..1.
        n_levels: levels at most.
        method: "thresholds"; "jenks" (least squared deviation inside the levels); "quantile" (levels of about equal size).
        thresholds: rising, `n_levels - 1` of them; a rate that equals one belongs to the easier level.
    """
    return _dense(_raw_levels(pass_rates, n_levels, method, thresholds))


def level_scores(test_levels: Sequence[int], scores: str | Sequence[float] = "equal") -> list[float]:
    """
    What each level is worth, summing to 1.

    Args:
        test_levels: level of each test, without gaps.
        scores: "equal", "by_size" (in proportion to its tests), or a positive number for each level.
    """
    sizes = Counter(test_levels)
    if not sizes or sorted(sizes) != list(range(len(sizes))):
        raise ValueError(f"`test_levels` must use all levels from 0 to the highest, not {sorted(sizes)}.")
    if not isinstance(scores, str):
        weights = [float(score) for score in scores]
        if len(weights) != len(sizes) or not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"`scores` must hold {len(sizes)} positive numbers, one for each level, not {scores!r}.")
    elif scores == "equal":
        weights = [1.0] * len(sizes)
    elif scores == "by_size":
        weights = [float(sizes[level]) for level in range(len(sizes))]
    else:
        raise ValueError(f"`scores` must be equal, by_size or a number for each level, not {scores!r}.")
    return [weight / sum(weights) for weight in weights]


def grade_tests(
    pass_rates: Sequence[float],
    n_levels: int = 3,
    method: str = "thresholds",
    thresholds: Sequence[float] = (0.3, 0.7),
    scores: str | Sequence[float] = "equal",
    drop_unpassable: bool = False,
) -> TestLevels:
    """
    Levels and scores of one problem's tests from their pass rates.

    Args:
        pass_rates, n_levels, method, thresholds: see `assign_levels`.
        scores: see `level_scores`; a number for each of the `n_levels`, rescaled over those that have tests.
        drop_unpassable: leave out tests that nobody ever passed: they may be broken.
    """
    _check_rates(pass_rates)
    kept = [index for index, rate in enumerate(pass_rates) if rate > 0 or not drop_unpassable]
    if not kept:
        raise ValueError(
            "`pass_rates` must not all be 0 with `drop_unpassable`, which then leaves no test; drop the problem "
            "or mend its tests."
        )
    if dropped := len(pass_rates) - len(kept):
        logger.warning("%d of %d tests were never passed and are left out.", dropped, len(pass_rates))
    raw = _raw_levels([pass_rates[index] for index in kept], n_levels, method, thresholds)
    levels = _dense(raw)
    if not isinstance(scores, str):
        if len(scores) != n_levels:
            raise ValueError(f"`scores` must hold {n_levels} numbers, one for each of `n_levels`, not {len(scores)}.")
        scores = [scores[level] for level in sorted(set(raw))]
    return TestLevels(kept, levels, level_scores(levels, scores))


def score(
    passed: Sequence[bool], test_levels: Sequence[int], level_scores: Sequence[float], scheme: str = "strict"
) -> float:
    """
    The reward of a program, in 0..1; 1 if and only if it passes all tests.

    Args:
        passed: whether it passes each test.
        test_levels: level of each test, 0 is the easiest.
        level_scores: what each level is worth; they sum to 1.
        scheme: "vanilla" (all tests or nothing), "strict" (a level counts if all its tests and those of easier levels are passed), or
            "soft" (each level counts by the share of its tests that are passed).
    """
    if scheme not in SCHEMES:
        raise ValueError(f"`scheme` must be one of {', '.join(SCHEMES)}, not {scheme!r}.")
    if len(passed) != len(test_levels) or not len(test_levels):
        raise ValueError(
            f"`passed` and `test_levels` must have an entry for each test; got {len(passed)} and {len(test_levels)}."
        )
    sums_to_1 = abs(sum(level_scores) - 1) <= 1e-6 and min(level_scores) > 0
    if sorted(set(test_levels)) != list(range(len(level_scores))) or not sums_to_1:
        raise ValueError(
            f"`test_levels` use {sorted(set(test_levels))} and `level_scores` are {list(level_scores)}: every level from 0 needs a test "
            "and a score, and the scores must be positive and sum to 1."
        )
    if all(passed):
        return 1.0
    if scheme == "vanilla":
        return 0.0
    shares = []
    for level in range(len(level_scores)):
        verdicts = [bool(verdict) for verdict, own in zip(passed, test_levels, strict=True) if own == level]
        shares.append(sum(verdicts) / len(verdicts))
    if scheme == "strict":
        shares = [1.0] * len(list(itertools.takewhile(lambda share: share == 1.0, shares)))
    return float(sum(worth * share for worth, share in zip(level_scores, shares, strict=False)))


def _check_rates(rates: Sequence[float]):
    if not len(rates):
        raise ValueError("`pass_rates` must have an entry for each test, one at least; got none.")
    wrong = [rate for rate in rates if not 0 <= rate <= 1]  # NaN too
    if wrong:
        raise ValueError(f"`pass_rates` must lie in 0..1; {wrong[0]!r} does not.")


def _raw_levels(rates: Sequence[float], n_levels: int, method: str, thresholds: Sequence[float]) -> list[int]:
    _check_rates(rates)
    if n_levels < 1:
        raise ValueError(f"`n_levels` must be at least 1, not {n_levels!r}.")
    if method == "thresholds":
        if len(thresholds) != n_levels - 1 or list(thresholds) != sorted(set(thresholds)):
            raise ValueError(
                f"`thresholds` must be {n_levels - 1} rising numbers for {n_levels} levels: {thresholds!r}."
            )
        return [sum(rate < threshold for threshold in thresholds) for rate in rates]
    if method == "quantile":
        return [sum(other > rate for other in rates) * n_levels // len(rates) for rate in rates]
    if method == "jenks":
        return _natural_breaks(rates, n_levels)
    raise ValueError(f"`method` must be one of {', '.join(METHODS)}, not {method!r}.")


def _dense(raw: Sequence[int]) -> list[int]:
    rank = {level: place for place, level in enumerate(sorted(set(raw)))}
    return [rank[level] for level in raw]


def _natural_breaks(rates: Sequence[float], n_levels: int) -> list[int]:
    """Levels with the least sum of squared deviations from their means, by dynamic programming over the distinct rates."""
    counts = Counter(rates)
    values = sorted(counts, reverse=True)
    groups = min(n_levels, len(values))
    weight = [0, *itertools.accumulate(counts[value] for value in values)]
    first = [0.0, *itertools.accumulate(counts[value] * value for value in values)]
    second = [0.0, *itertools.accumulate(counts[value] * value * value for value in values)]

    def deviation(start: int, stop: int) -> float:
        total = first[stop] - first[start]
        return second[stop] - second[start] - total * total / (weight[stop] - weight[start])

    best: list[tuple[float, list[int]]] = [(deviation(0, stop), [0]) for stop in range(1, len(values) + 1)]
    for used in range(1, groups):
        best = [
            min(
                (
                    (best[start - 1][0] + deviation(start, stop), [*best[start - 1][1], start])
                    for start in range(used, stop)
                ),
                default=(math.inf, []),
            )
            for stop in range(1, len(values) + 1)
        ]
    starts = best[-1][1]
    place = {value: sum(start <= index for start in starts) - 1 for index, value in enumerate(values)}
    return [place[rate] for rate in rates]
