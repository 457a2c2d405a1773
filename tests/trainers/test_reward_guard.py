"""Rewards that raise: the rows at fault, and what was logged."""

import asyncio
import functools

import pytest

from mimo_hf.trainers.reward_guard import guard_reward


def first_character(completions, answer, log_extra, log_metric, **columns):
    log_extra("length", [len(completion) for completion in completions])
    log_metric("rows", float(len(completions)))
    return [float(completion[0] == right) for completion, right in zip(completions, answer, strict=True)]


async def first_character_later(**columns):
    await asyncio.sleep(0)
    return first_character(**columns)


class FirstCharacter:
    def __call__(self, **columns):
        return first_character(**columns)


def call(function, completions):
    """(rewards, errors, what was logged) of a guarded call as TRL makes it."""
    errors, logged = [], []
    guarded = guard_reward(function, errors.append)
    columns = {
        "prompts": completions,
        "completions": completions,
        "answer": ["a"] * len(completions),
        "trainer_state": object(),
        "log_extra": lambda *values: logged.append(values),
        "log_metric": lambda *values: logged.append(values),
    }
    rewards = guarded(**columns)
    if asyncio.iscoroutine(rewards):
        rewards = asyncio.run(rewards)
    return rewards, errors, logged


FORMS = [first_character, first_character_later, FirstCharacter(), functools.partial(first_character, unused=1)]


@pytest.mark.parametrize("function", FORMS)
def test_a_row_that_raises_is_left_out_and_the_others_are_scored(function):
    rewards, errors, logged = call(function, ["ab", "", "b"])
    assert rewards == [1.0, None, 0.0]
    assert [type(error) for error in errors] == [IndexError]
    assert logged == [("length", [2, None, 1]), ("rows", 1.0), ("rows", 1.0)]


@pytest.mark.parametrize("function", FORMS)
def test_a_reward_that_does_not_raise_is_called_once(function):
    rewards, errors, logged = call(function, ["ab", "b"])
    assert (rewards, errors) == ([1.0, 0.0], [])
    assert logged == [("length", [2, 1]), ("rows", 2.0)]


def test_bound_arguments_reach_the_function():
    def above(completions, limit, **columns):
        return [float(len(completion) > limit) for completion in completions]

    assert call(functools.partial(functools.partial(above), limit=1), ["a", "bb"])[0] == [0.0, 1.0]


def test_the_name_and_the_kind_stay():
    assert guard_reward(first_character, print).__name__ == "first_character"
    assert guard_reward(FirstCharacter(), print).__name__ == "FirstCharacter"
    assert guard_reward(functools.partial(first_character), print).__name__ == "first_character"
    assert asyncio.iscoroutinefunction(guard_reward(first_character_later, print))


def test_an_interrupt_is_no_error_of_a_row():
    def interrupted(completions, **columns):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(interrupted, ["a"])
