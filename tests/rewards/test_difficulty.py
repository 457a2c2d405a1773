"""Levels and scores against brute force over all sets of passed tests."""

import itertools
import math
import random

import numpy as np
import pytest

from mimo_hf.rewards import assign_levels, grade_tests, level_scores, pass_rates, score


def brute_force(passed, levels, worth, scheme):
    """The formulas as products and sums over levels."""
    sizes = [sum(level == own for level in levels) for own in range(len(worth))]
    counts = [sum(ok for ok, level in zip(passed, levels, strict=True) if level == own) for own in range(len(worth))]
    full = [count == size for count, size in zip(counts, sizes, strict=True)]
    if scheme == "vanilla":
        return float(math.prod(full))
    if scheme == "strict":
        return sum(worth[own] * math.prod(full[: own + 1]) for own in range(len(worth)))
    return sum(worth[own] * counts[own] / sizes[own] for own in range(len(worth)))


def random_problem(rng):
    count = rng.randint(1, 8)
    levels = assign_levels([rng.random() for _ in range(count)])
    raw = [rng.random() + 0.01 for _ in range(max(levels) + 1)]
    return levels, level_scores(levels, rng.choice(["equal", "by_size", raw]))


@pytest.mark.parametrize("seed", range(6))
def test_scores_are_the_formulas_and_keep_their_invariants_over_all_sets_of_passed_tests(seed):
    levels, worth = random_problem(random.Random(seed))
    count = len(levels)
    table = {}
    for passed in itertools.product([False, True], repeat=count):
        for scheme in ("vanilla", "strict", "soft"):
            table[passed, scheme] = score(passed, levels, worth, scheme)
            assert table[passed, scheme] == pytest.approx(brute_force(passed, levels, worth, scheme), abs=1e-12)
    for passed in itertools.product([False, True], repeat=count):
        vanilla, strict, soft = (table[passed, scheme] for scheme in ("vanilla", "strict", "soft"))
        assert 0 <= vanilla <= strict + 1e-12 <= soft + 2e-12 <= 1 + 3e-12
        assert (vanilla == 1) == (strict == 1) == (soft == 1) == all(passed)
        for index in (index for index in range(count) if not passed[index]):
            more = (*passed[:index], True, *passed[index + 1 :])
            assert table[more, "strict"] >= strict - 1e-12
            assert table[more, "soft"] > soft
        for one, other in itertools.combinations(range(count), 2):
            if levels[one] == levels[other]:
                swapped = list(passed)
                swapped[one], swapped[other] = swapped[other], swapped[one]
                for scheme in ("vanilla", "strict", "soft"):
                    assert table[tuple(swapped), scheme] == pytest.approx(table[passed, scheme], abs=1e-12)


def test_thresholds_put_a_rate_that_equals_one_in_the_easier_level():
    assert assign_levels([1.0, 0.7, 0.69, 0.3, 0.29, 0.0]) == [0, 0, 1, 1, 2, 2]


def test_empty_levels_are_left_out():
    assert assign_levels([0.1, 0.9]) == [1, 0]
    assert assign_levels([0.5, 0.5]) == [0, 0]
    assert assign_levels([0.2]) == [0]


@pytest.mark.parametrize("method", ["thresholds", "jenks", "quantile"])
@pytest.mark.parametrize("seed", range(5))
def test_levels_do_not_depend_on_the_order_and_equal_rates_share_one(method, seed):
    rng = random.Random(seed)
    rates = [rng.choice([0.0, 0.1, 0.35, 0.5, 0.71, 0.9, 1.0]) for _ in range(rng.randint(1, 12))]
    levels = assign_levels(rates, method=method)
    assert set(levels) == set(range(max(levels) + 1))
    assert max(levels) < 3
    level_of = dict(zip(rates, levels, strict=True))
    assert [level_of[rate] for rate in rates] == levels
    assert [level_of[rate] for rate in sorted(level_of, reverse=True)] == sorted(level_of.values())
    order = rng.sample(range(len(rates)), len(rates))
    assert assign_levels([rates[index] for index in order], method=method) == [levels[index] for index in order]


@pytest.mark.parametrize("method", ["thresholds", "jenks", "quantile"])
def test_tests_that_are_all_equal_make_one_level(method):
    assert assign_levels([0.4] * 5, method=method) == [0] * 5


@pytest.mark.parametrize("seed", range(8))
def test_natural_breaks_have_the_least_deviation_of_all_cuts(seed):
    rng = random.Random(seed)
    rates = [round(rng.random(), 2) for _ in range(9)]
    values = sorted(set(rates), reverse=True)

    def deviation(levels):
        total = 0.0
        for own in set(levels):
            group = [rate for rate, level in zip(rates, levels, strict=True) if level == own]
            mean = sum(group) / len(group)
            total += sum((rate - mean) ** 2 for rate in group)
        return total

    cuts = itertools.combinations(range(1, len(values)), 2)
    best = min(deviation([sum(values.index(rate) >= cut for cut in pair) for rate in rates]) for pair in cuts)
    assert deviation(assign_levels(rates, method="jenks")) == pytest.approx(best, abs=1e-12)


def test_quantiles_have_about_equal_sizes():
    levels = assign_levels([index / 10 for index in range(9)], method="quantile")
    assert levels == [2, 2, 2, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("rates", [[], [1.2], [-0.1], [float("nan"), 0.5]])
def test_rates_that_are_none_or_outside_their_range_are_refused(rates):
    with pytest.raises(ValueError, match="rates"):
        assign_levels(rates)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"method": "kmeans"}, "method"), ({"n_levels": 0}, "n_levels"), ({"thresholds": (0.7, 0.3)}, "thresholds"),
        ({"thresholds": (0.5,)}, "thresholds"), ({"n_levels": 2}, "thresholds"),
    ],
)  # fmt: skip
def test_wrong_settings_of_levels_are_named(options, argument):
    with pytest.raises(ValueError, match=argument):
        assign_levels([0.5], **options)


def test_level_scores_sum_to_one():
    levels = [0, 0, 0, 1, 2, 2]
    assert level_scores(levels) == pytest.approx([1 / 3] * 3)
    assert level_scores(levels, "by_size") == pytest.approx([3 / 6, 1 / 6, 2 / 6])
    assert level_scores(levels, [1, 1, 2]) == pytest.approx([0.25, 0.25, 0.5])
    for wrong in ([1, 1], [1, -1, 1], [0, 0, 0], "linear", [1, float("nan"), 1]):
        with pytest.raises(ValueError, match="scores"):
            level_scores(levels, wrong)
    with pytest.raises(ValueError, match="test_levels"):
        level_scores([0, 2])


def test_given_scores_are_rescaled_over_the_levels_that_have_tests():
    graded = grade_tests([0.9, 0.1, 0.8], scores=[1, 5, 3])
    assert graded.kept == [0, 1, 2]
    assert graded.test_levels == [0, 1, 0]
    assert graded.level_scores == pytest.approx([0.25, 0.75])
    with pytest.raises(ValueError, match="scores"):
        grade_tests([0.9, 0.1], scores=[1, 2])


def test_tests_that_nobody_passed_can_be_left_out(caplog):
    graded = grade_tests([0.0, 0.9, 0.2, 0.0], drop_unpassable=True)
    assert graded.kept == [1, 2]
    assert graded.test_levels == [0, 1]
    assert "2 of 4 tests" in caplog.text
    assert grade_tests([0.0, 0.9]).kept == [0, 1]
    with pytest.raises(ValueError, match="drop_unpassable"):
        grade_tests([0.0, 0.0], drop_unpassable=True)


def test_pass_rates_are_means_over_all_programs_that_were_run():
    rollouts = [[True, False, True], [False, False, None], [True, False, None], [False, True, False]]
    assert pass_rates(rollouts) == [0.5, 0.25, 0.5]
    for wrong in ([], [[True], [True, False]], [[None, True]]):
        with pytest.raises(ValueError, match="rollouts"):
            pass_rates(wrong)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([True], [0], [1.0], "hard"), "scheme"), (([True], [0, 0], [1.0]), "passed"), (([], [], []), "passed"),
        (([True, True], [0, 2], [0.5, 0.5]), "test_levels"), (([True], [0], [0.9]), "level_scores"),
    ],
)  # fmt: skip
def test_scores_of_what_does_not_fit_together_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        score(*arguments)


def test_arrays_are_as_good_as_lists():
    rates = pass_rates(np.array([[1, 0], [1, 1]]))
    assert rates == [1.0, 0.5]
    assert assign_levels(pass_rates=np.array(rates)) == [0, 1]
    assert grade_tests(pass_rates=np.array(rates), scores=np.array([1, 2, 1])).level_scores == pytest.approx(
        [1 / 3, 2 / 3]
    )
    assert isinstance(score([False], [0], [1.0]), float)
    assert score(np.array([True, False]), np.array([0, 1]), np.array([0.25, 0.75]), "soft") == 0.25


@pytest.mark.parametrize("verdict", [float("nan"), 0.5, "no"])
def test_what_is_no_verdict_is_no_pass(verdict):
    with pytest.raises(ValueError, match="`rollouts` must hold True, False or None on test 1"):
        pass_rates([[True, verdict]])


@pytest.mark.parametrize("worth", [[1.0, 0.0], [1.5, -0.5], [float("nan"), 1.0]])
def test_a_level_that_is_worth_nothing_would_give_full_marks_for_a_failure(worth):
    with pytest.raises(ValueError, match="positive"):
        score([True, False], [0, 1], worth)
    with pytest.raises(ValueError, match="positive"):
        level_scores([0, 1], worth)


def test_tests_that_are_left_out_do_not_bend_the_levels_of_the_rest():
    rest = [0.9, 0.8, 0.5, 0.45]
    for method in ("jenks", "quantile"):
        graded = grade_tests([0.0, 0.0, *rest], 2, method, drop_unpassable=True)
        assert graded.test_levels == assign_levels(rest, 2, method) == [0, 0, 1, 1]
