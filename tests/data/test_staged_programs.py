"""The staged language against programs written out in Python."""

import pytest

from mimo_hf.data.staged_programs import MODULUS, passed_tests, run_program, staged_programs, words


def test_programs_do_what_they_say():
    program = "all add 3 ; small mul 2 ; large sub 5"
    for value in range(MODULUS):
        expected = (value + 3) % 1000
        if value > 9:
            expected = expected * 2 % 1000
        if value > 99:
            expected = (expected - 5) % 1000
        assert run_program(program, value) == expected


@pytest.mark.parametrize(
    "program", ["", "add 3", "all add", "all pow 3", "huge add 3", "all add 33", "all add -1", "a ;"]
)
def test_what_is_no_program_has_no_result(program):
    assert run_program(program, 5) is None


def test_the_solution_passes_every_test_and_the_first_stages_pass_the_easy_ones():
    rows = staged_programs("train", 60, seed=1)
    for row in rows:
        assert all(passed_tests(row["solution"], row["inputs"], row["outputs"]))
        stages = row["solution"].split(" ; ")
        easy = " ; ".join(stage for stage in stages if stage.startswith("all"))
        passed = passed_tests(easy, row["inputs"], row["outputs"])
        assert all(ok for ok, level in zip(passed, row["levels"], strict=True) if level == 0)
        assert set(row["solution"].split()) | set(row["prompt"].split()) <= set(words())
    assert set(rows["num_stages"]) == {1, 2, 3, 4}


def test_levels_are_the_sizes_of_inputs():
    for row in staged_programs("test", 20):
        assert row["levels"] == [0] * 3 + [1] * 3 + [2] * 3
        assert [(value > 9) + (value > 99) for value in row["inputs"]] == row["levels"]


def test_hard_tests_need_the_large_stage_where_there_is_one():
    rows = [row for row in staged_programs("train", 100) if "large add" in row["solution"]]
    assert rows
    for row in rows:
        without = " ; ".join(stage for stage in row["solution"].split(" ; ") if not stage.startswith("large"))
        passed = passed_tests(without, row["inputs"], row["outputs"])
        assert passed == [level < 2 for level in row["levels"]]


def test_the_splits_share_no_program_and_the_seed_decides():
    train, test = (staged_programs(split, 80) for split in ("train", "test"))
    assert not set(train["problem_id"]) & set(test["problem_id"])
    assert train["inputs"] == staged_programs("train", 80)["inputs"]
    assert train["problem_id"] != staged_programs("train", 80, seed=1)["problem_id"]
