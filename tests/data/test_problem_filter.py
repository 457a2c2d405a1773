"""The data filter against loops."""

import pytest
from datasets import Dataset

from mimo_hf.data import decontaminate, drop_duplicates, drop_unverifiable, keep_by_pass_rate
from mimo_hf.data.problem_filter import word_ngrams


@pytest.mark.parametrize("count", [10, 16, 20])
def test_pass_rates_decide_at_their_limits(count):
    strong = [[False] * 15 + [True]] * (count + 1)
    policy = [[True] * passes + [False] * (count - passes) for passes in range(count + 1)]
    assert keep_by_pass_rate(strong, policy) == [passes * 10 <= count * 9 for passes in range(count + 1)]
    assert keep_by_pass_rate(strong, policy, domain="code") == [passes < count for passes in range(count + 1)]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_a_problem_that_the_strong_model_never_solves_goes(domain):
    assert keep_by_pass_rate([[False] * 16, [True]], [[False] * 16] * 2, domain) == [False, True]


def test_impossible_inputs_are_named():
    with pytest.raises(ValueError, match="`domain` must be one of"):
        keep_by_pass_rate([], [], domain="law")
    with pytest.raises(ValueError, match="got 1 and 2"):
        keep_by_pass_rate([[True]], [[True], [True]])
    with pytest.raises(ValueError, match="got none of one model for problem 1"):
        keep_by_pass_rate([[True]] * 2, [[False], []])


def test_ngrams_by_hand():
    assert word_ngrams("A b, c! D", 3) == {("a", "b", "c"), ("b", "c", "d")}
    assert word_ngrams("A b", 3) == {("a", "b")}
    assert word_ngrams(" -- ", 3) == set()


def test_the_first_of_problems_that_share_a_phrase_stays():
    texts = ["one two three four five", "zero one two three nine", "one two nine four", "one two three"]
    rows = drop_duplicates(Dataset.from_dict({"prompt": texts}), ngram_size=3)
    assert rows["prompt"] == [texts[0], texts[2]]


def test_problems_of_the_evaluation_set_go():
    rows = Dataset.from_dict({"prompt": ["what is two plus two", "What is two plus three?", "how much is nine"]})
    kept = decontaminate(rows, ["Q: what is two plus two?"], ngram_size=5)
    assert kept["prompt"] == rows["prompt"][1:]


def test_verdicts_that_are_not_known_are_left_out():
    assert keep_by_pass_rate([[None, True]], [[True] * 9 + [None] * 7]) == [False]
    assert keep_by_pass_rate([[None, True]], [[True] * 9 + [False] + [None] * 6]) == [True]
    with pytest.raises(ValueError, match="problem 1"):
        keep_by_pass_rate([[True], [None]], [[True], [True]])


def test_a_share_in_percent_and_ngrams_of_no_words_are_refused():
    with pytest.raises(ValueError, match="`max_policy_pass_rate`"):
        keep_by_pass_rate([[True]], [[True]], max_policy_pass_rate=90)
    with pytest.raises(ValueError, match="`ngram_size`"):
        drop_duplicates(Dataset.from_list([{"prompt": "a b"}, {"prompt": "c d"}]), ngram_size=0)


def test_proofs_multiple_choice_and_problems_without_an_answer_go():
    rows = {
        "What is 2 + 3?": "5",
        "Prove that 2 is prime.": "see above",
        "Show that x = 3.": "3",
        "Improve the bound. What is it?": "7",  # no proof
        "Which is even?\n(A) 1\n(B) 2\n(C) 3": "2",
        "Which is even? A. 1 B. 2 C. 3 D. 5": "2",
        "Which one is even?": "(B)",
        "Points A, B and C lie on a line (C between A and B). How long is AB?": "4",
        "What is 1 + 1?": "",
        "What is 1 + 2?": None,
    }
    kept = drop_unverifiable(Dataset.from_dict({"prompt": list(rows), "solution": list(rows.values())}))
    assert [kept["prompt"][index][:12] for index in range(len(kept))] == [
        "What is 2 + ",
        "Improve the ",
        "Points A, B ",
    ]


def test_code_without_tests_goes():
    rows = Dataset.from_list([{"prompt": "a", "tests": [{"input": "1"}]}, {"prompt": "b", "tests": []}])
    assert drop_unverifiable(rows, "code")["prompt"] == ["a"]
    with pytest.raises(ValueError, match="`domain` must be one of"):
        drop_unverifiable(rows, "law")
