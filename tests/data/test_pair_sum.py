"""PairSum and DoubtSearch against enumeration and counting."""

import random
from itertools import combinations

import pytest

from mimo_hf.data import pair_sum
from mimo_hf.data.pair_sum import (
    judge_demonstration,
    judge_rows,
    judgement_reward,
    pair_reward,
    pair_sum_problems,
    parse_judgement,
    parse_pair,
    solve_demonstration,
    solve_rows,
)


@pytest.fixture(scope="module")
def problems():
    return {split: pair_sum_problems(split) for split in ("train", "test")}


def test_the_splits_are_all_problems_and_share_none(problems):
    ids = [problem_id for split in problems.values() for problem_id in split["problem_id"]]
    unique = sum(
        sum(sum(pair) == target for pair in combinations(numbers, 2)) == 1
        for numbers in combinations(range(1, 13), 3)
        for target in range(3, 25)
    )
    assert len(ids) == len(set(ids)) == unique == 660
    assert 0.15 < len(problems["test"]) / unique < 0.25


def test_exactly_the_given_pair_sums_to_the_target(problems):
    for row in problems["test"]:
        assert [list(pair) for pair in combinations(row["numbers"], 2) if sum(pair) == row["target"]] == [row["pair"]]


def test_demonstrations_without_noise_answer_right_and_in_few_trials():
    rng = random.Random(0)
    for numbers, target, pair in [((1, 5, 9), 10, (1, 9)), ((2, 3, 11), 5, (2, 3))]:
        for _ in range(50):
            response = solve_demonstration(numbers, target, rng, false_no=0, false_yes=0)
            assert parse_pair(response) == pair
            assert len(response.split()) <= 4 * 3 + 1


def test_noise_doubts_as_often_as_asked():
    rng = random.Random(1)
    right = [judge_demonstration((1, 9), 10, rng) for _ in range(4000)]
    wrong = [judge_demonstration((1, 5), 10, rng) for _ in range(4000)]
    assert abs(sum(response.endswith("n W") for response in right) / 4000 - 0.7) < 0.03
    assert abs(sum(response.endswith("y R") for response in wrong) / 4000 - 0.02) < 0.01
    assert {response.split()[2] for response in right} == {"10"}


def test_every_trial_adds_rightly_and_all_words_are_known():
    rng, known = random.Random(2), set(pair_sum.words())
    for _ in range(100):
        response = solve_demonstration((4, 7, 12), 19, rng)
        trials = response.removesuffix(" #").split()
        assert set(response.split()) <= known
        assert all(int(a) + int(b) == int(s) for a, b, s in zip(trials[0::4], trials[1::4], trials[2::4], strict=True))


def test_wrong_sums_are_near_and_as_many_as_asked_and_verdicts_are_about_them():
    rng, known = random.Random(6), set(pair_sum.words())
    trials = [
        judge_demonstration((1, 9), 10, rng, false_no=0, false_yes=0, wrong_sum=0.25).split() for _ in range(4000)
    ]
    assert abs(sum(trial[2] != "10" for trial in trials) / 4000 - 0.25) < 0.02
    assert {int(trial[2]) for trial in trials} == {7, 8, 9, 10, 11, 12, 13}
    assert all((trial[2] == "10") == (trial[3:] == ["y", "R"]) for trial in trials)
    smallest = {judge_demonstration((1, 2), 9, rng, wrong_sum=1.0).split()[2] for _ in range(400)}
    assert smallest == {"0", "1", "2", "4", "5", "6"}
    largest = {judge_demonstration((11, 12), 9, rng, wrong_sum=1.0).split()[2] for _ in range(400)}
    assert "26" in largest <= known


def test_straight_responses_start_with_the_right_pair():
    rng = random.Random(7)
    numbers, target, noise = (1, 5, 9, 12), 10, {"false_no": 0, "false_yes": 0}
    first = [parse_pair(solve_demonstration(numbers, target, rng, **noise, straight=1.0)) for _ in range(50)]
    assert set(first) == {(1, 9)}
    lengths = [len(solve_demonstration(numbers, target, rng, **noise, straight=0.4).split()) for _ in range(4000)]
    assert abs(sum(length == 5 for length in lengths) / 4000 - (0.4 + 0.6 / 6)) < 0.03


def test_judge_rows_are_labelled_by_the_sum_and_balanced(problems):
    rows = judge_rows(problems["train"], seed=3)
    assert all((sum(row["candidate"]) == row["target"]) == bool(row["label"]) for row in rows)
    assert abs(sum(rows["label"]) / len(rows) - 0.5) < 0.1
    assert {prompt.split()[0] for prompt in rows["prompt"]} == {"J"}
    assert rows["prompt"] == judge_rows(problems["train"], seed=3)["prompt"]
    assert rows["prompt"] != judge_rows(problems["train"], seed=4)["prompt"]


def test_a_judge_row_does_not_depend_on_the_other_problems(problems):
    few = problems["train"].select(range(5, 15))
    assert judge_rows(few)["prompt"] == judge_rows(problems["train"])["prompt"][5:15]


def test_prompts_have_no_answer(problems):
    row = solve_rows(problems["test"])[0]
    assert row["prompt"] == f"G {' '.join(map(str, row['numbers']))} T {row['target']} :"


@pytest.mark.parametrize(
    ("response", "pair"),
    [
        ("1 9 10 y #", (1, 9)),
        ("9 1 10 n 5 1 6 y # ", (1, 5)),
        ("1 9 10 y", None),
        ("1 9 10 y # 5", None),
        ("#", None),
        ("", None),
        ("y 1 9 #", None),
        ("x y z y #", None),
        (f"{9:05000} 1 10 y #", None),
    ],
)
def test_answers_are_parsed(response, pair):
    assert parse_pair(response) == pair


def test_rewards_by_hand():
    assert pair_reward(["1 9 10 y #", "1 5 6 y #", ""], [[1, 9]] * 3) == [1.0, 0.0, 0.0]
    assert judgement_reward(["1 9 10 y R", "1 5 6 n W", "1 5", ""], [1, 1, 0, 0]) == [1.0, 0.0, 0.0, 0.0]
    assert parse_judgement("n W") == 0


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="`split` must be one of"):
        pair_sum_problems("dev")
