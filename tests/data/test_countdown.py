"""Countdown against search."""

from itertools import permutations, product

import pytest

from mimo_hf.data.countdown import OPERATORS, check_steps, countdown, countdown_reward, reachable


def targets_of_three(numbers):
    """(a . b) . c and c . (a . b) for all orders, with results 0 to 99."""
    found = set()
    for (a, b, c), (first, second) in product(permutations(numbers), product(OPERATORS.values(), repeat=2)):
        inner = first(a, b)
        if 0 <= inner <= 99:
            found |= {value for value in (second(inner, c), second(c, inner)) if 0 <= value <= 99}
    return found


@pytest.mark.parametrize("numbers", [(1, 2, 3), (7, 7, 9), (2, 5, 8)])
def test_search_finds_what_three_loops_find(numbers):
    assert reachable(numbers) == targets_of_three(numbers)


def test_every_solution_is_accepted_and_every_target_reachable():
    rows = countdown("train", 60, seed=2)
    assert countdown_reward(rows["solution"], rows["numbers"], rows["target"]) == [1.0] * 60
    assert all(row["target"] in reachable(row["numbers"]) for row in rows)
    assert all("=" not in prompt for prompt in rows["prompt"])


def test_the_splits_share_no_problem_and_the_seed_decides():
    train, test = (countdown(split, 80) for split in ("train", "test"))
    assert not set(train["problem_id"]) & set(test["problem_id"])
    assert train["prompt"] == countdown("train", 80)["prompt"]
    assert train["prompt"] != countdown("train", 80, seed=1)["prompt"]


@pytest.mark.parametrize(
    ("response", "accepted"),
    [
        ("3 * 4 = 12; 12 + 1 = 13", True),
        ("1 + 12 = 13", False),
        ("3 * 4 = 12; 12 + 1 = 14", False),
        ("3 * 4 = 13", False),
        ("3 * 4 = 12; 4 + 1 = 5; 12 + 1 = 13", False),
        ("3 * 4 = 12", False),
        ("3 ** 4 = 12; 12 + 1 = 13", False),
        ("3 * 4 = " + "9" * 10_000, False),
        ("", False),
    ],
)
def test_steps_are_checked(response, accepted):
    assert check_steps(response, [1, 3, 4], 13) is accepted


def test_more_problems_than_there_are_is_refused():
    with pytest.raises(ValueError, match="must not be more than there are distinct problems"):
        countdown("train", 100, num_numbers=2, max_number=2)
