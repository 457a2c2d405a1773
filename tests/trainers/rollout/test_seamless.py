"""SeamlessRollout against a brute-force reading of its rules, on recorded traces in virtual time."""

import asyncio
import itertools
import math
import random
import signal
import statistics
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from mimo_hf.trainers import SeamlessRollout
from mimo_hf.trainers.rollout.seamless import RolloutError, rewards_differ

SEEDS = range(200)


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
        import seamless

        yield seamless


@pytest.fixture(scope="module")
def play(bench):
    """Runs a coroutine in virtual time; fails where it would wait for ever or leaves an asyncio task behind."""
    return bench.run_in_virtual_time


class Simulated:
    """Generation and scoring that take random times, with a log of what happened when. Prompts are 0, 1, 2, ..."""

    def __init__(self, seed, pass_rate=0.4):
        self.random = random.Random(seed)
        self.validity = random.Random(f"validity {seed}")
        self.pass_rate = pass_rate
        self.verdicts = {}
        self.started, self.generated, self.finished, self.cancelled = {}, {}, {}, []
        self.generating = self.scoring = self.peak_generating = self.peak_scoring = 0

    def valid(self, prompt):
        while len(self.verdicts) <= prompt:
            self.verdicts[len(self.verdicts)] = self.validity.random() < self.pass_rate
        return self.verdicts[prompt]

    async def generate(self, prompt):
        now = asyncio.get_running_loop().time
        self.started[prompt] = now()
        self.generating += 1
        self.peak_generating = max(self.peak_generating, self.generating)
        try:
            await asyncio.sleep(self.random.lognormvariate(0, 1))
        except asyncio.CancelledError:
            self.cancelled.append(prompt)
            raise
        finally:
            self.generating -= 1
        self.generated[prompt] = now()
        return f"answer {prompt}"

    async def score(self, prompt, output):
        assert output == f"answer {prompt}"
        self.scoring += 1
        self.peak_scoring = max(self.peak_scoring, self.scoring)
        try:
            await asyncio.sleep(self.random.expovariate(2))
        except asyncio.CancelledError:
            self.cancelled.append(prompt)
            raise
        finally:
            self.scoring -= 1
        self.finished[prompt] = asyncio.get_running_loop().time()
        return [1.0, 0.0] if self.valid(prompt) else [0.0, 0.0]


def random_setting(seed):
    draw = random.Random(f"setting {seed}")
    return {
        "needed": draw.randint(1, 9),
        "max_inflight": draw.randint(1, 14),
        "max_rewards": draw.choice([None, 1, 2, 5]),
        "prior": draw.choice([(1.0, 1.0), (4.0, 1.0), (0.5, 8.0)]),
    }


def random_rollout(play, seed, prompts=None, **changes):
    """(world, setting, engine, result)"""
    world = Simulated(seed, random.Random(seed).choice([0.15, 0.4, 0.9]))
    setting = random_setting(seed) | changes
    engine = SeamlessRollout(world.generate, world.score, **setting)
    result = play(engine.rollout(iter(itertools.count()) if prompts is None else prompts))
    return world, setting, engine, result


@pytest.fixture(scope="module")
def traces(play):
    return [random_rollout(play, seed) for seed in SEEDS]


def end_by_the_rule(world, needed):
    """(moment, prompts) when the first `needed` valid tasks are known and all started before the last have finished."""
    for moment in sorted(world.finished.values()):
        done = {prompt for prompt, end in world.finished.items() if end <= moment}
        valid = sorted(prompt for prompt in done if world.valid(prompt))[:needed]
        if len(valid) == needed and done.issuperset(range(valid[-1])):
            return moment, valid
    return None


def test_a_rollout_ends_as_soon_as_the_first_in_first_out_rule_allows(traces):
    for world, setting, _, result in traces:
        moment, valid = end_by_the_rule(world, setting["needed"])
        assert [task.prompt for task in result.groups] == valid
        assert result.stats.wall_s == moment == max(world.finished.values())
        assert not result.exhausted
        assert [task.order for task in result.tasks] == [task.prompt for task in result.tasks] == sorted(world.started)


def may_start(world, setting, moment, started):
    """The launch rule at this moment, when `started` tasks have been started."""
    done = [prompt for prompt, end in world.finished.items() if end <= moment]
    valid = sum(map(world.valid, done))
    generating = started - sum(end <= moment for end in world.generated.values())
    a, b = setting["prior"]
    expected = valid + (started - len(done)) * (a + valid) / (a + b + len(done))
    return generating < setting["max_inflight"] and expected < setting["needed"]


def test_tasks_start_when_the_launch_rule_says(traces):
    for world, setting, _, _ in traces:
        for order, moment in enumerate(world.started.values()):
            assert may_start(world, setting, moment, order)
        for moment in {0.0, *world.generated.values(), *world.finished.values()} - {max(world.finished.values())}:
            assert not may_start(world, setting, moment, sum(start <= moment for start in world.started.values()))


def test_limits_hold_and_what_was_not_needed_was_cancelled(traces):
    for world, setting, engine, result in traces:
        assert world.peak_generating <= setting["max_inflight"]
        assert world.peak_scoring <= (setting["max_rewards"] or math.inf)
        assert world.generating == world.scoring == 0
        started, last = len(world.started), result.groups[-1].order
        assert set(world.started) - set(world.finished) >= set(world.cancelled)
        assert list(engine.returned) == list(range(last + 1, started))
        # The rest waited for a free place in scoring.
        assert set(world.started) - set(world.finished) - set(world.cancelled) <= set(world.generated)


def test_statistics_are_those_of_the_trace(traces):
    for world, setting, engine, result in traces:
        stats, end = result.stats, max(world.finished.values())
        valid = sum(map(world.valid, world.finished))
        busy = sum(world.generated.get(prompt, end) - start for prompt, start in world.started.items())
        assert (stats.started, stats.finished, stats.valid) == (len(world.started), len(world.finished), valid)
        assert stats.selected == setting["needed"] == len(result.groups)
        assert stats.wasted == valid - setting["needed"]
        assert stats.cancelled == len(world.started) - len(world.finished)
        assert stats.returned == len(engine.returned)
        assert stats.pass_rate == valid / len(world.finished)
        assert stats.idle_share == pytest.approx(1 - busy / (end * setting["max_inflight"]))
        assert {task.prompt: task.finished_s for task in result.tasks if task.valid is not None} == world.finished
        assert {task.prompt: task.started_s for task in result.tasks} == world.started


def test_limits_are_used_to_the_full(play):
    world, *_ = random_rollout(play, 0, needed=40, max_inflight=11, max_rewards=2)
    assert (world.peak_generating, world.peak_scoring) == (11, 2)


def test_a_task_that_waits_for_its_reward_holds_no_slot(play):
    async def generate(prompt):
        await asyncio.sleep(1)

    async def score(prompt, output):
        await asyncio.sleep(100)
        return [0.0, 1.0]

    result = play(SeamlessRollout(generate, score, 5, 1, max_tasks=5).rollout(itertools.count()))
    assert [task.started_s for task in result.groups] == [0, 1, 2, 3, 4]
    assert result.stats.wall_s == 105
    assert result.stats.idle_share == pytest.approx(100 / 105)


@pytest.mark.parametrize("seed", range(40))
def test_steps_use_up_prompts_like_a_sampler_that_looks_at_one_after_another(play, seed):
    world = Simulated(seed)
    setting = random_setting(seed)
    engine = SeamlessRollout(world.generate, world.score, **setting)
    prompts = itertools.count()
    valid = (prompt for prompt in itertools.count() if world.valid(prompt))
    for _ in range(6):
        result = play(engine.rollout(prompts))
        expected = list(itertools.islice(valid, setting["needed"]))
        assert [task.prompt for task in result.groups] == expected
        rest = [*engine.returned, next(prompts)]
        assert rest == list(range(expected[-1] + 1, expected[-1] + 1 + len(rest)))
        prompts = itertools.chain([rest[-1]], prompts)


def test_cancelled_prompts_open_the_next_rollout_in_their_order(play):
    asked = []

    async def generate(prompt):
        asked.append(prompt)
        await asyncio.sleep({"b": 50, "d": 70}.get(prompt, 1))

    async def score(prompt, output):
        return [0.0, 1.0]

    prompts = iter("abcdef")
    engine = SeamlessRollout(generate, score, 1, 4, prior=(1.0, 9.0))
    assert [task.prompt for task in play(engine.rollout(prompts)).groups] == ["a"]
    assert list(engine.returned) == ["b", "c", "d"]
    assert [task.prompt for task in play(engine.rollout(prompts)).groups] == ["b"]
    assert asked == list("abcd") + list("bcde")
    assert list(engine.returned) == ["c", "d", "e"]


def selected_lengths(bench, arm, seed):
    """One step's mean length over that of the valid population."""
    problems = bench.Problems(seed, 0.8, 0.05)
    step = bench.run_in_virtual_time(bench.engine(problems, bench.make_engine(problems, arm, 16, 64)))
    return statistics.mean(sample.generation_s for sample in step.groups) / problems.mean_generation_s


def test_selected_groups_are_as_long_as_valid_ones_are(bench):
    lengths = [selected_lengths(bench, "+ early stop", seed) for seed in SEEDS]
    assert abs(statistics.mean(lengths) - 1) < 2 * statistics.stdev(lengths) / math.sqrt(len(lengths))


def test_taking_the_first_to_finish_would_prefer_short_groups(bench):
    lengths = [selected_lengths(bench, "first finished", seed) for seed in SEEDS]
    assert statistics.mean(lengths) + 2 * statistics.stdev(lengths) / math.sqrt(len(lengths)) < 0.9


# Prompts that run out


async def instantly(prompt):
    return prompt


async def always_valid(prompt, output):
    return [0.0, 1.0]


async def never_valid(prompt, output):
    return [1.0, 1.0]


@pytest.mark.parametrize("needed", [1, 3, 50])
def test_prompts_without_any_valid_group_all_finish_and_the_result_says_so(play, needed):
    engine = SeamlessRollout(instantly, never_valid, needed, 4)
    result = play(engine.rollout(range(30)))
    assert (result.groups, result.exhausted) == ([], True)
    assert (result.stats.finished, result.stats.pass_rate, len(engine.returned)) == (30, 0, 0)


@pytest.mark.parametrize("seed", range(60))
def test_too_few_prompts_give_the_valid_ones_of_all(play, seed):
    world, _, engine, result = random_rollout(play, seed, prompts=range(12), needed=10)
    valid = [prompt for prompt in range(12) if world.valid(prompt)]
    assert [task.prompt for task in result.groups] == valid[:10]
    assert result.exhausted == (len(valid) < 10)
    if result.exhausted:
        assert len(world.finished) == 12
        assert not engine.returned


def test_no_prompts_give_no_groups(play):
    result = play(SeamlessRollout(instantly, always_valid, 3, 2).rollout([]))
    assert (result.groups, result.exhausted, result.stats.started, result.stats.idle_share) == ([], True, 0, 0)
    assert math.isnan(result.stats.pass_rate)


def test_max_tasks_bounds_a_rollout_over_endless_prompts(play):
    prompts = itertools.count()
    engine = SeamlessRollout(instantly, never_valid, 2, 3, max_tasks=7)
    result = play(engine.rollout(prompts))
    assert (result.stats.started, result.exhausted, next(prompts)) == (7, True, 7)


@pytest.mark.parametrize("slots", [1, 5])
def test_one_needed_group_is_the_first_valid_one(play, slots):
    world, _, _, result = random_rollout(play, 3, needed=1, max_inflight=slots)
    assert [task.prompt for task in result.groups] == [next(filter(world.valid, itertools.count()))]


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


# With the action scheduler as the engine


async def write(prompt, asleep):
    asleep.append(prompt)
    await asyncio.sleep(600 if prompt == 3 else 0)
    return prompt


def test_the_action_scheduler_generates_and_scores():
    from mimo_hf.scheduler import Action, ActionScheduler, SchedulerConfig

    async def main():
        asleep = []
        config = SchedulerConfig(cpu_cores=2, cpu_enforce="count", quotas={"model": {"concurrency": 4}})
        async with ActionScheduler(config, exclusive=False) as scheduler:
            engine = SeamlessRollout(
                lambda prompt: scheduler.run(Action("generate", partial(write, prompt, asleep), {"model": 1})),
                lambda prompt, output: scheduler.run(Action("reward", partial(divmod, output, 2), {"cpu": 1})),
                needed=2,
                max_inflight=4,
                is_valid=lambda reward: reward[1] == 0,  # prompts 0, 2, 4, ...
                prior=(1.0, 9.0),
            )
            result = await asyncio.wait_for(engine.rollout(itertools.count()), 60)
            await scheduler.drain(60)
            return result, list(engine.returned), asleep, scheduler.stats()

    result, returned, asleep, stats = asyncio.run(main())
    assert [(task.prompt, task.reward) for task in result.groups] == [(0, (0, 0)), (2, (1, 0))]
    assert 3 in returned
    assert 3 in asleep
    assert (stats["queued"], stats["running"]) == (0, 0)
    assert stats["outcomes"]["cancelled"] >= 1


# Arguments


@pytest.mark.parametrize(
    ("rewards", "differ"),
    [
        ([1.0, 0.0, 1.0], True),
        ([0.5, 0.5], False),
        ([1, None, 0], True),
        ([1.0, None, math.nan], False),
        ((0.0, 1e-3), True),
        (torch.tensor([0.0, 1.0]), True),
        ([None, None], False),
    ],
)
def test_a_group_is_valid_if_its_rewards_differ(rewards, differ):
    assert rewards_differ(rewards) is differ


@pytest.mark.parametrize("rewards", [1.0, True, [], "no", {"a": 1.0}, [[1.0], [0.0]], torch.zeros(2, 2)])
def test_rewards_that_are_not_of_a_group_are_refused(rewards):
    with pytest.raises(TypeError, match="pass `is_valid`"):
        rewards_differ(rewards)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"generate_fn": 3}, TypeError, "generate_fn"),
        ({"reward_fn": None}, TypeError, "reward_fn"),
        ({"is_valid": 1}, TypeError, "is_valid"),
        ({"needed": 0}, ValueError, "`needed` must be at least 1; got 0"),
        ({"max_inflight": 0}, ValueError, "max_inflight"),
        ({"max_rewards": 0}, ValueError, "max_rewards"),
        ({"max_tasks": 1}, ValueError, "at least needed=2; got 1"),
        ({"prior": (0.0, 1.0)}, ValueError, "prior"),
        ({"prior": (1.0, math.inf)}, ValueError, "prior"),
        ({"prior": (1.0,)}, ValueError, "prior"),
    ],
)
def test_impossible_arguments_are_named(changes, error, named):
    arguments = {"generate_fn": instantly, "reward_fn": always_valid, "needed": 2, "max_inflight": 1} | changes
    with pytest.raises(error, match=named):
        SeamlessRollout(**arguments)
