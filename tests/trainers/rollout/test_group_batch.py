"""Rows, groups and padding against plain lists."""

import itertools
import math

import pytest
import torch

from mimo_hf.trainers.rollout.group_batch import (
    concatenate,
    failed_groups,
    informative_groups,
    solved_groups,
    take_groups,
)

NAN = math.nan


def test_a_group_is_informative_if_two_scored_rows_differ():
    for group in itertools.product([0.0, 0.1, 1.0, -math.inf, NAN], repeat=4):
        scored = {reward for reward in group if not math.isnan(reward)}
        assert informative_groups(torch.tensor(group)).item() == (len(scored) > 1), group


def test_equal_partial_rewards_are_not_informative_though_their_deviation_is_not_zero():
    rewards = torch.tensor([0.1, 0.2, 0.7]).sum().repeat(7)
    assert not informative_groups(rewards)


def test_solved_and_failed_groups_by_hand():
    for rows in itertools.product([(1.0, 1.0), (1.0, NAN), (1.0, 0.0), (0.0, NAN), (NAN, NAN)], repeat=3):
        scores = [score for row in rows for score in row if not math.isnan(score)]
        rewards = torch.tensor(rows)
        assert solved_groups(rewards).item() == (bool(scores) and min(scores) >= 1), rows
        assert failed_groups(rewards).item() == (bool(scores) and max(scores) <= 0), rows


def test_groups_are_taken_whole_and_in_order():
    batch = {"x": torch.arange(12), "y": torch.arange(24).view(12, 2), "total": torch.tensor(5)}
    taken = take_groups(batch, [2, 0], num_generations=3)
    assert taken["x"].tolist() == [6, 7, 8, 0, 1, 2]
    assert taken["y"][:, 0].tolist() == [12, 14, 16, 0, 2, 4]
    assert taken["total"] == 5


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("prompt_ids", [[9, 1], [2, 3]]),
        ("prompt_mask", [[0, 1], [2, 3]]),
        ("completion_ids", [[1, 9], [2, 3]]),
        ("completion_mask", [[1, 0], [2, 3]]),
        ("old_per_token_logps", [[1, 0], [2, 3]]),
        ("tool_mask", [[1, 1], [2, 3]]),
    ],
)
def test_prompts_are_padded_on_the_left_and_the_rest_on_the_right(key, expected):
    joined = concatenate([{key: torch.tensor([[1]])}, {key: torch.tensor([[2, 3]])}], pad_token_id=9)
    assert joined[key].tolist() == expected


def test_one_value_a_sequence_stays_one_value_and_counts_are_left_out():
    batches = [
        {
            "advantages": torch.ones(2),
            "importance_sampling_ratio": torch.ones(2, 1),
            "num_items_in_batch": torch.tensor(3),
        }
        for _ in range(2)
    ]
    joined = concatenate(batches, pad_token_id=0)
    assert {key: list(value.shape) for key, value in joined.items()} == {
        "advantages": [4],
        "importance_sampling_ratio": [4, 1],
    }
