"""PromptSampler against counting and against a sampler that was never interrupted."""

import json
import math

import pytest

from mimo_hf.trainers.rollout.prompt_sampler import PromptSampler


def test_without_a_pool_every_problem_is_drawn_once_a_round():
    sampler = PromptSampler(7, seed=3)
    rounds = [sampler.draw(7) for _ in range(5)]
    assert all(sorted(drawn) == list(range(7)) for drawn in rounds)
    assert len(set(map(tuple, rounds))) > 1


def test_without_a_pool_solved_problems_stay():
    sampler = PromptSampler(4)
    sampler.update(2, solved=True)
    assert not sampler.in_pool(2)
    assert sampler.draw(40).count(2) == 10


def test_a_certain_pool_draw_takes_nothing_else():
    sampler = PromptSampler(20, easy_pool_alpha=1.0)
    for index in (3, 8):
        sampler.update(index, solved=True)
    assert set(sampler.draw(200)) == {3, 8}


def test_an_empty_pool_leaves_the_active_problems():
    assert sorted(PromptSampler(5, easy_pool_alpha=1.0).draw(5)) == list(range(5))


def test_one_draw_in_ten_is_from_the_pool():
    sampler = PromptSampler(100, easy_pool_alpha=0.1, seed=1)
    for index in range(30):
        sampler.update(index, solved=True)
    draws = sampler.draw(10_000)
    from_pool = sum(index < 30 for index in draws)
    assert abs(from_pool - 1000) < 3 * math.sqrt(10_000 * 0.1 * 0.9)
    assert set(draws) == set(range(100))


def test_a_problem_that_is_not_solved_any_more_is_active_again():
    sampler = PromptSampler(3, easy_pool_alpha=1e-9)
    sampler.update(1, solved=True)
    assert 1 not in sampler.draw(20)
    sampler.update(1, solved=False)
    assert sampler.pool_size == 0
    assert 1 in sampler.draw(5)


def test_when_all_is_solved_the_pool_is_drawn():
    sampler = PromptSampler(3, easy_pool_alpha=1e-9)
    for index in range(3):
        sampler.update(index, solved=True)
    assert set(sampler.draw(60)) == {0, 1, 2}


def test_a_restored_sampler_goes_on_alike():
    sampler, copy = (PromptSampler(50, easy_pool_alpha=0.3, seed=seed) for seed in (4, 5))
    for index in sampler.draw(37):
        sampler.update(index, solved=index % 3 == 0)
    copy.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert copy.draw(100) == sampler.draw(100)


def test_a_state_of_another_data_set_is_refused():
    with pytest.raises(ValueError, match="of 5 problems; got 6"):
        PromptSampler(6).load_state_dict(PromptSampler(5).state_dict())


@pytest.mark.parametrize(("arguments", "named"), [((0,), "num_problems"), ((3, 1.5), "easy_pool_alpha")])
def test_impossible_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        PromptSampler(*arguments)
