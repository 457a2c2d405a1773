"""Staged programs: tests need as many stages as they say, and Python says the same."""

import contextlib
import io

import pytest

from mimo_hf.data.staged_programs import (
    CUES,
    OPERATIONS,
    STAGES,
    WORDS,
    as_python,
    demonstrations,
    run_program,
    staged_programs,
)


def run_python(source, stdin, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(source, {})
    return out.getvalue()


def test_a_pipeline_does_what_its_words_say():
    assert run_program("sort reverse double increment", "3 1 2\n4\n") == "7 5 3"
    assert run_program("sort reverse double increment", "3 1 2\n1\n") == "1 2 3"
    assert run_program("rotate rest unique negate", "3 1 2 1\n4\n") == "-2 -1 -3"
    for wrong in ("", "sort", "sort sort sort sort sort", "sort sort sort pop", ":"):
        assert run_program(wrong, "1\n1\n") is None


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_tests_of_a_depth_need_that_many_stages_and_python_agrees(split, monkeypatch):
    for problem in staged_programs(12, split):
        solution = problem["solution"].split()
        assert [CUES[cue] for cue in problem["prompt"].split()[:-1]] == solution
        assert problem["test_depths"] == [1, 1, 2, 2, 3, 3, 4, 4]
        for test, depth in zip(problem["tests"], problem["test_depths"], strict=True):
            other = next(word for word in OPERATIONS if word != solution[depth - 1])
            for stage in range(depth, STAGES):  # later stages may be anything
                changed = " ".join([*solution[:stage], other, *solution[stage + 1 :]])
                assert run_program(changed, test["input"]) == test["output"]
            assert run_python(as_python(problem["solution"]), test["input"], monkeypatch).strip() == test["output"]


def test_most_wrong_first_stages_fail_every_test():
    """A wrong operation may agree by chance; both tests of a depth seldom do."""
    passed = total = 0
    for problem in staged_programs(40):
        solution = problem["solution"].split()
        for word in OPERATIONS.keys() - {solution[0]}:
            changed = " ".join([word, *solution[1:]])
            total += 1
            passed += all(run_program(changed, test["input"]) == test["output"] for test in problem["tests"][:2])
    assert passed / total < 0.02


def test_problems_are_different_seeded_and_split_by_pipeline():
    train = staged_programs(400)
    assert len(set(train["prompt"])) == 400
    assert train[:] == staged_programs(400)[:]
    assert train["prompt"] != staged_programs(400, seed=1)["prompt"]
    held_out = staged_programs(400, "held_out", seed=1)
    assert set(train["prompt"]).isdisjoint(held_out["prompt"])
    with pytest.raises(ValueError, match="split"):
        staged_programs(1, "test")
    with pytest.raises(ValueError, match="count"):
        staged_programs(0)


def test_demonstrations_are_right_as_often_as_asked():
    problems = staged_programs(500)
    right = (0.9, 0.5, 0.2, 0.0)
    pairs = demonstrations(problems, right)
    for stage, chance in enumerate(right):
        hits = [
            pair["completion"].split()[stage] == problem["solution"].split()[stage]
            for pair, problem in zip(pairs, problems, strict=True)
        ]
        assert sum(hits) / len(hits) == pytest.approx(chance, abs=0.07)  # three standard errors
    assert {word for pair in pairs for text in pair.values() for word in text.split()} <= set(WORDS)
