"""Judge sets of random candidates: balance, exclusions, and that problems do not touch each other."""

import random
from collections import Counter, defaultdict

import pytest

from mimo_hf.data import build_judge_set, length_auc
from mimo_hf.data.judge_set import solution_response

GOLD = 7


def make_candidates(num_problems=40, seed=0):
    """Completions of two models: thoughts, then an answer of one digit; some truncated, empty or without answer."""
    rng = random.Random(seed)
    candidates = []
    for problem in range(num_problems):
        skill = rng.choice([0, 0.3, 0.5, 0.8, 1])
        for sample in range(8):
            answer = GOLD if rng.random() < skill else rng.choice([1, 2, 2, 2])
            ending = rng.choice(
                [f"</think> step {rng.randrange(6)} so {answer}"] * 6 + ["", "</think> ", "</think> unsure"]
            )
            candidates.append(
                {
                    "problem_id": f"p{problem}",
                    "problem": f"problem {problem}",
                    "completion": f"<think>maybe {GOLD}{ending}",
                    "source_model": "ab"[sample % 2],
                    "solution": GOLD,
                }
            )
    return candidates


def make_prompt(problem, candidate):
    return [{"role": "user", "content": f"{problem}\n<solution>{candidate}</solution>"}]


def parse_answer(response):
    return int(response[-1]) if response[-1:].isdecimal() else None


def build(candidates, **options):
    return build_judge_set(candidates, make_prompt, parse_answer, **options)


@pytest.mark.parametrize("seed", range(5))
def test_every_problem_is_balanced_of_medium_difficulty_and_free_of_thoughts(seed):
    candidates = make_candidates(seed=seed)
    rows = build(candidates)
    usable = defaultdict(set)
    for candidate in candidates:
        response = candidate["completion"].partition("</think>")[2].strip()
        if response and response != "unsure":
            usable[candidate["problem_id"]].add(response)
    labels = defaultdict(Counter)
    for row in rows:
        right = {response for response in usable[row["problem_id"]] if response.endswith(str(GOLD))}
        assert row["label"] == (row["candidate"] in right)
        assert row["pass_rate"] == pytest.approx(len(right) / len(usable[row["problem_id"]]))
        assert 0 < row["pass_rate"] < 1
        assert "think" not in row["prompt"][0]["content"]
        labels[row["problem_id"]][row["label"]] += 1
    assert all(counts[0] == counts[1] <= 2 for counts in labels.values())
    medium = [
        name for name, responses in usable.items() if 0 < sum(r.endswith("7") for r in responses) < len(responses)
    ]
    assert sorted(labels) == sorted(medium)
    assert len({(row["problem_id"], row["candidate"]) for row in rows}) == len(rows)


def test_a_problem_s_rows_depend_on_no_other_problem_and_not_on_the_order():
    candidates = make_candidates()
    few = [candidate for candidate in candidates if int(candidate["problem_id"][1:]) < 20]
    all_rows = [row for row in build(candidates) if int(row["problem_id"][1:]) < 20]
    assert list(build(few)) == all_rows
    by_id = sorted(all_rows, key=lambda row: (row["problem_id"], row["candidate"]))
    assert sorted(build(few[::-1]), key=lambda row: (row["problem_id"], row["candidate"])) == by_id
    assert [row["candidate"] for row in build(few, seed=1)] != [row["candidate"] for row in all_rows]


def candidate(answer, source="a", problem="p", words="so"):
    return {
        "problem_id": problem,
        "problem": problem,
        "completion": f"</think>{words} {answer}",
        "source_model": source,
        "solution": GOLD,
    }


def test_the_most_frequent_wrong_answer_is_preferred():
    candidates = [candidate(7), candidate(1), *[candidate(2, words=f"so{n}") for n in range(3)]]
    rows = build(candidates, max_pairs_per_problem=1)
    assert sorted(row["candidate"][-1] for row in rows) == ["2", "7"]


def test_source_models_take_turns():
    candidates = [candidate(7, "a", words=f"so {n}") for n in range(4)] + [candidate(7, "b")]
    candidates += [candidate(2, "b", words=f"so {n}") for n in range(4)] + [candidate(2, "a")]
    rows = build(candidates)
    assert sorted((row["label"], row["source_model"]) for row in rows) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


def test_an_empty_result_says_why():
    hopeless = [candidate(2), candidate(2), {**candidate(1), "completion": "cut off"}, candidate("x")]
    with pytest.raises(ValueError, match="`candidates` must leave some") as error:
        build(hopeless)
    for reason in ("repeated", "no solution response", "no answer found", "pass rate of the problem"):
        assert f"1  {reason}" in str(error.value)


def test_over_long_candidates_go():
    rows = build([candidate(7), candidate(2), candidate(2, words="so " * 10)], max_candidate_tokens=5)
    assert sorted(rows["candidate"]) == ["so 2", "so 7"]


def test_lengths_that_tell_the_label_are_warned_of():
    rows = [candidate(7, problem=f"p{n}") for n in range(5)]
    rows += [candidate(2, problem=f"p{n}", words="well then so") for n in range(5)]
    with pytest.warns(UserWarning, match=r"AUC of 0\.00"):
        build(rows)


def test_auc_is_the_share_of_pairs():
    rng = random.Random(0)
    lengths, labels = [rng.randrange(9) for _ in range(60)], [rng.randrange(2) for _ in range(60)]
    pairs = [
        (a > b) + (a == b) / 2
        for a, right in zip(lengths, labels, strict=True)
        if right
        for b, other in zip(lengths, labels, strict=True)
        if not other
    ]
    assert length_auc(lengths, labels) == pytest.approx(sum(pairs) / len(pairs))
    assert length_auc([1, 2], [1, 1]) == 0.5


def test_only_what_follows_the_last_thought_is_a_solution_response():
    assert solution_response("<think>a</think> b </think>\n c ") == "c"
    assert solution_response("<think>a") is None


def test_a_key_of_ones_own_chooses_the_wrong_candidates():
    candidates = [candidate(7), candidate(1), *[candidate(2, words=f"so{n}") for n in range(3)]]
    rows = build(candidates, max_pairs_per_problem=1, hard_negative_key=lambda row: (row["label"], row["answer"]))
    assert sorted(row["candidate"][-1] for row in rows) == ["1", "7"]


def test_candidates_without_an_answer_are_wrong_ones_if_they_are_kept():
    candidates = [candidate(7), candidate("x")]
    with pytest.raises(ValueError, match="1  no answer found"):
        build(candidates)
    rows = build(candidates, keep_unparseable=True)
    assert {row["candidate"]: row["label"] for row in rows} == {"so 7": 1, "so x": 0}


def test_a_problem_without_a_solution_is_named_as_the_reason():
    with pytest.raises(ValueError, match="2  no `solution` to compare with"):
        build([{**candidate(7), "solution": None}, {**candidate(2), "solution": None}])


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_pair_is_asked_for(count):
    with pytest.raises(ValueError, match="`max_pairs_per_problem` must be at least 1"):
        build([candidate(7), candidate(2)], max_pairs_per_problem=count)
