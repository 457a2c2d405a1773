"""SeamlessRollout against a brute-force reading of its rules, on recorded traces in virtual time."""

import asyncio
import itertools
import math
import random
import statistics
from functools import partial

import pytest
import torch

from mimo_hf.trainers import SeamlessRollout
from mimo_hf.trainers.rollout.seamless import rewards_differ

from ._seamless import Simulated, always_valid, instantly, random_setting

SEEDS = range(200)


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
