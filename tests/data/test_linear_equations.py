"""Linear equations: rows against arithmetic, demonstrations against counting."""

import random

import pytest

from mimo_hf.data.linear_equations import (
    MAX_SOLUTION,
    check_demonstration,
    check_rows,
    checked_demonstration,
    is_plan,
    judge_demonstration,
    judge_rows,
    linear_equation_problems,
    parse_solution,
    plan_demonstration,
    solution_reward,
    solve_rows,
    trial_demonstration,
    words,
)
from mimo_hf.data.pair_sum import parse_judgement


@pytest.fixture(scope="module")
def problems():
    return {split: linear_equation_problems(split) for split in ("train", "test")}


def test_the_splits_are_all_equations_and_share_none(problems):
    rows = [row for split in problems.values() for row in split]
    assert len({row["problem_id"] for row in rows}) == len(rows) == 8 * 9 * 9
    assert all(row["a"] * row["x"] + row["b"] == row["c"] for row in rows)
    assert 0.15 < len(problems["test"]) / len(rows) < 0.25
    with pytest.raises(ValueError, match="`split` must be one of"):
        linear_equation_problems("held_out")


def test_without_slips_both_ways_lead_to_the_solution(problems):
    rng = random.Random(0)
    for row in problems["test"]:
        equation = (row["a"], row["b"], row["c"])
        plan, trial = plan_demonstration(*equation, rng), trial_demonstration(*equation, rng)
        assert solution_reward([plan, trial], [row["x"]] * 2) == [1.0, 1.0]
        assert (len(plan.split()), len(trial.split())) == (7, 4 * row["x"] + 2)
        assert (is_plan(plan), is_plan(trial)) == (True, False)


def test_plans_slip_as_often_as_asked():
    rng = random.Random(1)
    plans = [plan_demonstration(7, 5, 47, rng, slips=0.3) for _ in range(4000)]
    right_start = sum(plan.startswith("- 5 42 ") for plan in plans) / 4000
    right = sum(plan == "- 5 42 / 7 6 #" for plan in plans) / 4000
    assert abs(right_start - 0.7) < 0.03
    assert abs(right - 0.49) < 0.03


def test_trials_go_on_where_the_solution_was_missed():
    rng = random.Random(2)
    doubted = [trial_demonstration(3, 2, 11, rng, false_no=0.5) for _ in range(2000)]
    assert abs(sum(len(response.split()) == 14 for response in doubted) / 2000 - 0.5) < 0.04
    again = next(response for response in doubted if len(response.split()) > 4 * MAX_SOLUTION)
    assert again.split()[4 * MAX_SOLUTION] == "1"
    assert {parse_solution(response) for response in doubted} == {3}


def test_a_doubted_plan_is_followed_by_trials(problems):
    rng = random.Random(8)
    sure = [checked_demonstration(3, 2, 11, rng) for _ in range(50)]
    assert set(sure) == {"- 2 9 / 3 3 9 11 y #"}
    responses = [checked_demonstration(3, 2, 11, rng, false_no=0.5) for _ in range(2000)]
    lengths = [len(response.split()) for response in responses]
    assert abs(lengths.count(10) / 2000 - 0.5) < 0.04
    assert abs(lengths.count(10 + 4 * 3) / 2000 - 0.25) < 0.03
    assert abs(lengths.count(10 + 4 * (3 + MAX_SOLUTION)) / 2000 - 0.125) < 0.03
    doubted = next(response for response in responses if len(response.split()) == 22)
    assert doubted == "- 2 9 / 3 3 9 11 n 1 3 5 n 2 6 8 n 3 9 11 y #"
    assert {parse_solution(response) for response in responses} == {3}
    assert (is_plan(sure[0]), is_plan(doubted)) == (True, False)


def test_a_wrong_plan_is_found_out_and_its_answer_is_what_is_checked():
    rng = random.Random(9)
    responses = [checked_demonstration(7, 5, 47, rng, slips=1.0) for _ in range(200)]
    for response in responses:
        words = response.split()
        assert int(words[6]) == 7 * int(words[5])
        assert (words[8] == "y") == (int(words[5]) == 6)
        assert parse_solution(response) == 6
    assert not any(map(is_plan, responses))
    believed = checked_demonstration(7, 5, 47, random.Random(1), slips=1.0, false_yes=1.0)
    assert parse_solution(believed) == int(believed.split()[5]) != 6


def test_rows_to_check_are_balanced_and_labelled_by_the_answer(problems):
    rows = check_rows(problems["train"], seed=3)
    assert all((row["candidate"] == row["x"]) == bool(row["label"]) for row in rows)
    assert all(abs(row["candidate"] - row["x"]) <= 3 for row in rows)
    assert 0.4 < sum(rows["label"]) / len(rows) < 0.6
    few = check_rows(problems["train"].select(range(7, 19)), seed=3)
    assert list(few["prompt"]) == rows["prompt"][7:19]
    rng = random.Random(10)
    for row in rows.select(range(100)):
        judgement = check_demonstration(row["a"], row["b"], row["c"], row["candidate"], rng)
        assert parse_judgement(judgement) == row["label"]


def test_judge_rows_are_balanced_and_labelled_by_the_answer(problems):
    rows = judge_rows(problems["train"], seed=3)
    assert all((row["candidate"][1] == row["x"]) == bool(row["label"]) for row in rows)
    assert all(row["candidate"][0] == row["c"] - row["b"] for row in rows if row["label"])
    assert 0.4 < sum(rows["label"]) / len(rows) < 0.6
    wrong_early = [row["candidate"][0] != row["c"] - row["b"] for row in rows if not row["label"]]
    assert 0.35 < sum(wrong_early) / len(wrong_early) < 0.65
    few = judge_rows(problems["train"].select(range(7, 19)), seed=3)
    assert list(few["prompt"]) == rows["prompt"][7:19]


def test_a_judge_without_slips_finds_every_wrong_answer(problems):
    rng = random.Random(4)
    for row in judge_rows(problems["test"]):
        judgement = judge_demonstration(row["a"], row["b"], row["c"], row["candidate"], rng)
        assert parse_judgement(judgement) == row["label"]


def test_all_words_are_known(problems):
    rng, known = random.Random(5), set(words())
    assert len(words()) == len(known)
    for row in judge_rows(problems["train"]):
        equation = (row["a"], row["b"], row["c"])
        judgement = judge_demonstration(*equation, row["candidate"], rng, slips=0.5)
        responses = [
            plan_demonstration(*equation, rng, slips=0.9),
            trial_demonstration(*equation, rng, slips=0.2),
            checked_demonstration(*equation, rng, slips=0.9, false_no=0.6, false_yes=0.02),
        ]
        assert {word for text in (row["prompt"], judgement, *responses) for word in text.split()} <= known
    assert {word for prompt in check_rows(problems["train"])["prompt"] for word in prompt.split()} <= known
    assert {word for prompt in solve_rows(problems["test"])["prompt"] for word in prompt.split()} <= known


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("- 5 42 / 7 6 #", 6),
        ("6 #", 6),
        ("- 5 42 / 7 6", None),
        ("6 # 7", None),
        ("#", None),
        ("", None),
        ("y #", None),
    ],
)
def test_the_answer_is_the_number_before_the_end(response, answer):
    assert parse_solution(response) == answer
