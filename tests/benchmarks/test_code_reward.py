"""benchmarks/code_reward.py in miniature: its short cut past the sandbox changes no reward, and its arms differ by the reward only."""

import asyncio
import copy
import warnings

import pytest

from mimo_hf.data.staged_programs import STAGES, as_python, staged_programs


@pytest.fixture(scope="module")
def bench():
    import code_reward

    return code_reward


@pytest.mark.parametrize("scheme", ["vanilla", "strict", "soft"])
def test_pipelines_earn_in_their_interpreter_what_they_earn_in_the_sandbox(bench, scheme):
    problems = staged_programs(6)
    programs = [row["solution"].split() for row in problems]
    for row, program in enumerate(programs):  # the first one is right, the others go wrong at one stage or another
        if row:
            program[row % STAGES] = "double" if program[row % STAGES] != "double" else "sort"
    programs = [" ".join(program) for program in programs]
    columns = {
        "tests": problems["tests"][:],
        "test_levels": [[0, 0, 1, 1, 2, 2, 2, 2]] * 6,
        "level_scores": [[0.5, 0.25, 0.25]] * 6,
    }
    direct = bench.staged_reward(programs, scheme=scheme, **columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with bench.Sandbox(workers=1) as sandbox:
            completions = [f"```python\n{as_python(program)}```" for program in programs]
            boxed = asyncio.run(bench.CodeReward(scheme, sandbox)(completions, **columns))
    assert boxed == direct
    assert direct[0] == 1
    assert min(direct) < 1


def test_levels_come_from_each_problems_own_rollouts(bench):
    problems = staged_programs(2)
    right = problems["solution"][0]
    rollouts = [[right] * 4, ["", "", "", ""]]
    graded = bench.with_levels(problems, rollouts)
    assert graded["test_levels"][:] == [[0] * 8] * 2  # all tests alike: one level
    half = " ".join(
        [*right.split()[:2], *(["negate", "negate"] if right.split()[2] != "negate" else ["sort", "sort"])]
    )
    graded = bench.with_levels(problems, [[half, half, half, right], ["", "", "", ""]])
    assert graded["test_levels"][0][:4] == [0] * 4
    assert graded["test_levels"][0][4:6] == [1] * 2


def test_schemes_score_the_same_samples_and_strict_never_has_more_groups_that_teach_nothing(bench):
    tokenizer = bench.word_tokenizer(bench.WORDS)
    model = bench.warm_start(tokenizer, 0, bench.DEMONSTRATIONS["hard"], steps=3)
    problems = staged_programs(32)
    problems = bench.with_levels(problems, bench.samples(model, tokenizer, problems, 2))
    vanilla, strict = (
        bench.train(copy.deepcopy(model), tokenizer, problems, scheme, 0, steps=1) for scheme in ("vanilla", "strict")
    )
    assert 1 >= vanilla[0] >= strict[0] >= 0
