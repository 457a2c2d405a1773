"""Rewards that raise: the rows at fault, and what was logged."""

import asyncio
import copy
import functools
import inspect

import pytest
from trl.trainer.utils import get_callable_name, is_async_callable

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


class Counting:
    """A reward function with a state, an option and a method."""

    def __init__(self):
        self.calls, self.limit = 0, 3

    def __call__(self, prompts, completions, **columns):
        self.calls += 1
        return [float(len(completion) > self.limit) for completion in completions]

    def reset(self):
        self.calls = 0


def longer(prompts, completions, limit=1):
    """Whether it is longer."""
    return [float(len(completion) > limit) for completion in completions]


async def longer_later(prompts, completions, limit=1):
    return longer(prompts, completions, limit)


def result(value):
    return asyncio.run(value) if asyncio.iscoroutine(value) else value


@pytest.mark.parametrize("function", [longer, longer_later])
def test_it_is_called_as_the_function_is(function):
    guarded = guard_reward(function, print)
    for arguments, columns in [
        ((["p"] * 2, ["a", "bb"]), {}),
        ((["p"] * 2, ["a", "bb"], 1), {}),
        ((["p"] * 2,), {"completions": ["a", "bb"]}),
        ((), {"completions": ["a", "bb"], "prompts": ["p"] * 2, "limit": 1}),
    ]:
        assert result(guarded(*arguments, **columns)) == result(function(*arguments, **columns)) == [0.0, 1.0]
    assert result(guarded(["p"] * 2, ["a", None])) == [0.0, None]  # guarded by position, too


@pytest.mark.parametrize("arguments", [(), (["p"],), (["p"], ["a"], 1, 2)])
def test_a_call_that_the_function_refuses_is_refused(arguments):
    with pytest.raises(TypeError) as expected:
        longer(*arguments)
    with pytest.raises(TypeError) as seen:
        guard_reward(longer, print)(*arguments)
    assert str(seen.value) == str(expected.value)


def test_a_function_without_completions_is_passed_its_arguments():
    def environments_own(environments, **columns):
        return [environment * 2 for environment in environments]

    assert guard_reward(environments_own, print)(environments=[1, 2]) == [2, 4]


@pytest.mark.parametrize("function", [longer, longer_later, Counting(), functools.partial(longer, limit=2)])
def test_it_looks_like_the_function(function):
    guarded = guard_reward(function, print)
    assert inspect.signature(guarded) == inspect.signature(function)
    assert guarded.__doc__ == function.__doc__
    assert guarded.__module__ == function.__module__
    assert inspect.unwrap(guarded) is function
    assert is_async_callable(guarded) == is_async_callable(function)
    assert get_callable_name(guarded) == get_callable_name(function)
    assert copy.deepcopy(guarded).__doc__ == function.__doc__


def test_attributes_are_the_functions_own():
    function = Counting()
    guarded = guard_reward(function, print)
    guarded(prompts=["p"], completions=["abcd"])
    assert (guarded.calls, function.calls) == (1, 1)
    guarded.limit = 5
    assert function.limit == 5
    assert guarded(prompts=["p"], completions=["abcd"]) == [0.0]
    guarded.reset()
    assert function.calls == 0
    assert not hasattr(guarded, "nothing")
