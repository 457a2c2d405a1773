"""How a rollout of SeamlessRollout ends when something goes wrong: errors, cancellation, interrupts; every prompt is accounted for."""

import asyncio
import itertools
import random
import signal
import threading

import pytest

from mimo_hf.trainers import SeamlessRollout
from mimo_hf.trainers.rollout.seamless import RolloutError

from ._seamless import Simulated, always_valid, instantly, random_setting

# Errors


class Breaks(Simulated):
    """One prompt goes wrong in one place."""

    def __init__(self, seed, prompt, place, error):
        super().__init__(seed)
        self.prompt, self.place, self.error = prompt, place, error

    async def generate(self, prompt):
        output = await super().generate(prompt)
        if (self.place, self.prompt) == ("generate_fn", prompt):
            raise self.error
        return output

    async def score(self, prompt, output):
        reward = await super().score(prompt, output)
        if (self.place, self.prompt) == ("reward_fn", prompt):
            raise self.error
        return "nonsense" if (self.place, self.prompt) == ("is_valid", prompt) else reward


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("place", ["generate_fn", "reward_fn", "is_valid"])
def test_an_error_names_its_prompt_and_returns_all_prompts(play, place, seed):
    error = TypeError if place == "is_valid" else ConnectionError
    world = Breaks(seed, 4, place, error("gone"))
    engine = SeamlessRollout(world.generate, world.score, **random_setting(seed) | {"needed": 20})
    prompts = itertools.count()
    with pytest.raises(RolloutError, match=f"`{place}` raised .* for the prompt 4") as caught:
        play(engine.rollout(prompts))
    assert caught.value.prompt == 4
    assert isinstance(caught.value.__cause__, error)
    assert world.generating == world.scoring == 0
    assert [*engine.returned, next(prompts)] == list(range(len(world.started) + 1))
    # The next rollout begins with them, and goes well once the prompt is taken out.
    engine.returned.remove(4)
    result = play(engine.rollout(prompts))
    assert [task.prompt for task in result.tasks[:4]] == [0, 1, 2, 3]
    assert len(result.groups) == 20


def test_a_cancellation_from_within_is_an_error_not_a_hang(play):
    async def generate(prompt):
        await asyncio.sleep(1)
        if prompt == "bad":
            raise asyncio.CancelledError

    engine = SeamlessRollout(generate, always_valid, 3, 2)
    with pytest.raises(RolloutError, match="'bad' waited for was cancelled"):
        play(engine.rollout(["good", "bad", "good"]))
    assert len(engine.returned) >= 2


def test_prompts_that_raise_end_the_rollout(play):
    def prompts():
        yield from range(3)
        raise OSError("disk")

    world = Simulated(0)
    engine = SeamlessRollout(world.generate, world.score, 5, 8)
    with pytest.raises(OSError, match="disk"):
        play(engine.rollout(prompts()))
    assert list(engine.returned) == [0, 1, 2]


def test_a_function_that_is_not_async_is_an_error(play):
    with pytest.raises(RolloutError, match=r"generate_fn.*await"):
        play(SeamlessRollout(lambda prompt: prompt, always_valid, 1, 1).rollout([1]))


# Cancellation from outside


@pytest.mark.parametrize("timeout_s", [0.01, 1, 5, 20])
def test_a_cancelled_rollout_cleans_up_and_keeps_its_prompts(play, timeout_s):
    world = Simulated(1)
    engine = SeamlessRollout(world.generate, world.score, 100, 7, max_rewards=2)
    prompts = itertools.count()

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.rollout(prompts), timeout_s)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    play(main())
    assert world.generating == world.scoring == 0
    assert [*engine.returned, next(prompts)] == list(range(len(world.started) + 1))


def test_a_second_cancellation_during_the_clean_up_leaves_nothing_behind(play):
    ended = []

    async def generate(prompt):
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)  # tells a server
            ended.append(prompt)

    engine = SeamlessRollout(generate, always_valid, 2, 2)

    async def main():
        work = asyncio.ensure_future(engine.rollout(iter("ab")))
        for _ in range(3):
            await asyncio.sleep(0.3)
            work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert asyncio.all_tasks() == {asyncio.current_task()}

    play(main())
    assert ended == ["a", "b"]
    assert list(engine.returned) == ["a", "b"]


def test_an_engine_that_answers_a_cancellation_with_a_partial_output_is_not_scored(play):
    scored = []

    async def generate(prompt):
        try:
            await asyncio.sleep(1 if prompt == "quick" else 50)
        except asyncio.CancelledError:
            return "partial"
        return "whole"

    async def score(prompt, output):
        scored.append(output)
        return [0.0, 1.0]

    result = play(SeamlessRollout(generate, score, 1, 2, prior=(1.0, 9.0)).rollout(["quick", "slow"]))
    assert scored == ["whole"]
    assert [task.output for task in result.tasks] == ["whole", None]
    assert (result.stats.cancelled, result.stats.wall_s) == (1, 1)


def test_a_reward_that_answers_a_cancellation_changes_nothing(play):
    async def score(prompt, output):
        try:
            await asyncio.sleep(1 if prompt == "quick" else 50)
        except asyncio.CancelledError:
            await asyncio.sleep(3)
        return [0.0, 1.0]

    result = play(SeamlessRollout(instantly, score, 1, 2, prior=(1.0, 9.0)).rollout(["quick", "slow"]))
    assert [task.valid for task in result.tasks] == [True, None]
    assert (result.stats.cancelled, result.stats.wasted) == (1, 0)
    assert result.stats.wall_s == 1  # the clean-up took three seconds more


def test_one_object_does_one_rollout_at_a_time(play):
    world = Simulated(2)
    engine = SeamlessRollout(world.generate, world.score, 3, 3)

    async def main():
        first = asyncio.ensure_future(engine.rollout(itertools.count()))
        await asyncio.sleep(0.1)
        with pytest.raises(RuntimeError, match="await it first"):
            await engine.rollout([])
        return await first

    assert len(play(main()).groups) == 3


class Hostile:
    """Fails, is cancelled from within, takes its time over being cancelled or answers it, as each prompt's fate has it."""

    def __init__(self, seed):
        self.seed, self.random = seed, random.Random(seed)
        self.fates = ["good"] * self.random.choice([3, 30, 300])
        self.fates += ["raises", "cancels itself", "slow to end", "answers", "raises at the end", "bad reward"]
        self.pass_rate = self.random.choice([0, 0.1, 0.4, 1])
        self.active = 0

    def fate(self, prompt):
        return random.Random(f"{self.seed} {prompt}").choice(self.fates)

    async def generate(self, prompt):
        self.active += 1
        fate = self.fate(prompt)
        try:
            await asyncio.sleep(self.random.choice([0, self.random.random(), self.random.lognormvariate(0, 1)]))
            if fate == "raises":
                raise ValueError(prompt)
        except asyncio.CancelledError:
            await asyncio.sleep(3 * (fate == "slow to end"))
            if fate == "answers":
                return None
            if fate == "raises at the end":
                raise OSError(prompt) from None
            raise
        finally:
            self.active -= 1
        if fate == "cancels itself":
            raise asyncio.CancelledError
        return prompt

    async def score(self, prompt, output):
        self.active += 1
        try:
            await asyncio.sleep(self.random.choice([0, self.random.random()]))
        finally:
            self.active -= 1
        return None if self.fate(prompt) == "bad reward" else [float(self.random.random() < self.pass_rate), 0.0]


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_whatever_happens_nothing_hangs_or_leaks_and_every_prompt_is_accounted_for(play, first):
    async def rollouts(seed):
        world, draw = Hostile(seed), random.Random(f"rollouts {seed}")
        limits = {"max_rewards": draw.choice([None, 1, 2]), "max_tasks": draw.choice([None, 40])}
        engine = SeamlessRollout(world.generate, world.score, draw.randint(1, 6), draw.randint(1, 8), **limits)
        prompts, used = iter(range(draw.choice([0, 5, 40, 400]))), []
        for _ in range(6):
            work = asyncio.ensure_future(engine.rollout(prompts))
            for _ in range(draw.choice([0, 0, 1, 3])):
                await asyncio.sleep(5 * draw.random())
                work.cancel()
            try:
                result = await work
                used += [task.prompt for task in result.tasks[: result.stats.started - result.stats.returned]]
            except RolloutError as error:
                engine.returned.remove(error.prompt)
                used.append(error.prompt)
            except asyncio.CancelledError:
                pass
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert world.active == 0
            assert list(engine.returned) == sorted(engine.returned)
            assert sorted([*used, *engine.returned]) == list(range(len(used) + len(engine.returned)))

    for seed in range(first, first + 50):
        play(rollouts(seed))


# From synchronous code


def test_run_gives_the_groups():
    engine = SeamlessRollout(instantly, always_valid, 3, 2)
    prompts = itertools.count()
    assert [[task.prompt for task in engine.run(prompts).groups] for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]


def test_run_works_where_a_loop_is_running():
    async def cell():
        return SeamlessRollout(instantly, always_valid, 3, 2).run(range(9))

    assert len(asyncio.run(cell()).groups) == 3


def test_run_passes_errors_on():
    async def generate(prompt):
        raise ValueError(prompt)

    engine = SeamlessRollout(generate, always_valid, 3, 2)
    with pytest.raises(RolloutError, match="ValueError"):
        engine.run(["bad"])
    assert list(engine.returned) == ["bad"]


@pytest.fixture
def interruptible():
    """A shell's background job ignores SIGINT, and Python with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("in_notebook", [False, True])
def test_an_interrupt_cancels_run_and_keeps_the_prompts(in_notebook, interruptible):
    ended = []

    async def generate(prompt):
        try:
            if prompt == 1:
                await asyncio.sleep(0.2)  # by then the main thread waits
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.sleep(600)
        finally:
            ended.append(prompt)

    engine = SeamlessRollout(generate, always_valid, 2, 2)

    async def cell():
        return engine.run(iter(range(9)))

    # asyncio.run would cancel the cell instead of interrupting it.
    loop = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell()) if in_notebook else engine.run(iter(range(9)))
    loop.close()
    assert ended == list(engine.returned) == [0, 1]
