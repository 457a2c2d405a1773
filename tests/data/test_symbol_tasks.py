"""Answers by another way than the one that makes them: digit by digit, by counting, by index, by sums of slices."""

import pytest

from mimo_hf.data import symbol_task, symbol_tasks, word_tokenizer
from mimo_hf.data.symbol_tasks import TASKS, exact_match_reward

CYCLE = dict(zip("0123456789", "3456789012", strict=True))


def right(domain: str, problem: list[str]) -> list[str]:
    if domain == "add":
        return [CYCLE[digit] for digit in problem]
    if domain == "sort":
        return [digit for digit in "0123456789" for _ in range(problem.count(digit))]
    if domain == "reverse":
        return [problem[len(problem) - 1 - index] for index in range(len(problem))]
    return [str(sum(map(int, problem[: index + 1])))[-1] for index in range(len(problem))]


@pytest.mark.parametrize(("domain", "length"), [("add", 7), ("sort", 6), ("reverse", 7), ("running_sum", 24)])
def test_answers_are_right(domain, length):
    for row in symbol_task(domain, "train", 200):
        mark, *problem, equals = row["prompt"].split()
        assert (mark, equals, len(problem)) == (TASKS[domain].mark, "=", length)
        assert row["answer"].split() == right(domain, problem)
        assert row["domain"] == domain


def test_known_answers():
    assert {name: task.solve("97012") for name, task in TASKS.items()} == {
        "add": "20345", "sort": "01279", "reverse": "21079", "running_sum": "96679",
    }  # fmt: skip


def test_the_splits_share_no_problem_even_where_there_are_few():
    ids = [set(symbol_task("sort", split, 2000, length=2)["problem_id"]) for split in ("train", "test")]
    assert len(ids[0]) + len(ids[1]) == 100
    assert not ids[0] & ids[1]
    assert 10 < len(ids[1]) < 30


def test_a_seed_gives_the_same_rows_and_another_others():
    first = symbol_task("add", "train", 50, seed=1)["prompt"]
    assert first == symbol_task("add", "train", 50, seed=1)["prompt"]
    assert first[:20] == symbol_task("add", "train", 20, seed=1)["prompt"]
    assert not set(first) & set(symbol_task("add", "train", 50, seed=2)["prompt"])


def test_every_symbol_has_a_token_and_comes_back():
    tokenizer = word_tokenizer(symbol_tasks.words())
    assert len(tokenizer) == 27
    for domain in TASKS:
        for row in symbol_task(domain, "test", 20):
            ids = tokenizer(row["prompt"]).input_ids + tokenizer(row["answer"]).input_ids
            assert 0 not in ids
            assert tokenizer.decode(ids) == f"{row['prompt']} {row['answer']}"


def test_the_reward_wants_every_symbol_and_no_more():
    answers = ["1 2 3"] * 5
    assert exact_match_reward(["1 2 3", " 1 2 3 ", "1 2", "1 2 3 3", ""], answers, domain="add") == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("multiply", "train", 5), "`domain` must be one of 'add', 'sort', 'reverse', 'running_sum'; got 'multiply'"),
        (("add", "valid", 5), "`split` must be one of"),
        (("add", "train", 0), "`num_problems` must be at least 1; got 0"),
        (("add", "train", 5, 0), "`length` must be at least 1; got 0"),
    ],
)
def test_what_is_not_a_task_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        symbol_task(*arguments)
