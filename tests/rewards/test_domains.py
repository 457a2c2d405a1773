"""Rows of several domains in one batch."""

import inspect

import numpy as np
import pytest

from mimo_hf.rewards import by_domain, domain_reward, judge_reward

from .conftest import call


def lengths(prompts, completions, scale, log_metric=None, **columns):
    if log_metric is not None:
        log_metric("lengths/rows", len(completions))
    assert set(columns) == {"domain", "trainer_state", "completion_ids"}
    assert len(columns["completion_ids"]) == len(columns["domain"]) == len(prompts)
    return [s * len(completion) for s, completion in zip(scale, completions, strict=True)]


async def letters(prompts, completions, scale, **columns):
    return [
        None if completion == "?" else float(prompt == completion)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def broken(completions, **columns):
    raise RuntimeError("no such table")


def short(completions, **columns):
    return [1.0]


def batch(reward, domains, **options):
    count = len(domains)
    columns = {
        "domain": domains, "scale": list(range(count)), "completion_ids": [[n] for n in range(count)], "trainer_state": object(),
    }  # fmt: skip
    completions = ["a", "bb", "?", "ccc"][:count]
    return call(reward, completions, prompts=["a", "b", "c", "ccc"][:count], **columns, **options)


def test_each_row_goes_to_its_domain_and_comes_back_in_its_place():
    reward = by_domain({"length": lengths, "letter": letters})
    logged, extra = {}, {}
    found = batch(
        reward, ["letter", "length", "letter", "length"], log_metric=logged.__setitem__, log_extra=extra.__setitem__
    )
    assert found == [1.0, 2, None, 9]
    assert logged == {"lengths/rows": 2, "reward/errors": 0}


def test_a_reward_that_raises_leaves_its_rows_out_and_is_counted(caplog):
    logged = {}
    reward = by_domain({"length": broken, "letter": letters})
    assert batch(reward, ["letter", "length", "letter", "length"], log_metric=logged.__setitem__) == [
        1.0,
        None,
        None,
        None,
    ]
    assert logged == {"reward/errors": 0.5}
    assert "no such table" in caplog.text


def test_if_nothing_can_be_scored_the_error_goes_on():
    with pytest.raises(RuntimeError, match="no such table"):
        batch(by_domain({"length": broken}), ["length", "length"])


def test_a_reward_with_too_few_values_is_an_error():
    with pytest.raises(ValueError, match="each of its 2 rows; got 1"):
        batch(by_domain({"length": short}), ["length", "length"])


def test_a_row_of_an_unknown_domain_is_named():
    with pytest.raises(ValueError, match=r"row 1 must be one of length, letter.*'music'"):
        batch(by_domain({"length": lengths, "letter": letters}), ["length", "music"])


def test_another_column_may_name_the_domain():
    reward = by_domain({"x": letters}, column="task")
    assert call(reward, ["a"], prompts=["a"], task=["x"], scale=[1]) == [1.0]
    with pytest.raises(ValueError, match="`task` must be a column"):
        call(reward, ["a"], prompts=["a"], domain=["x"])
    with pytest.raises(ValueError, match="got none"):
        by_domain({})


def test_the_ready_made_one_knows_mathematics_code_and_verdicts():
    assert sorted(domain_reward.rewards) == ["code", "judge", "math"]
    assert inspect.iscoroutinefunction(domain_reward.__call__)
    found = call(domain_reward, ["Verdict: 1", "Verdict: 1"], domain=["judge", "judge"], label=[1, 0])
    assert found == [1.0, 0.0]


def test_columns_may_be_arrays():
    reward = by_domain({"judge": judge_reward, 1: judge_reward})
    columns = {"domain": np.array(["judge", "judge"]), "label": np.array([1, 0])}
    assert call(reward, ["Verdict: 1"] * 2, **columns) == [1.0, 0.0]
    with pytest.raises(ValueError, match="one of judge, 1"):
        call(reward, ["Verdict: 1"], domain=["law"], label=[1])
