"""Rows of what TRL passes to a reward function."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerState

from mimo_hf.data.reward_columns import take_rows

COMPLETIONS = ["a", "b", "c"]


@pytest.mark.parametrize(
    "column",
    [
        [1, 2, 3],
        (1, 2, 3),
        np.array([1, 2, 3]),
        torch.tensor([1, 2, 3]),
        Dataset.from_dict({"x": [1, 2, 3]})["x"],
    ],
)
@pytest.mark.parametrize("rows", [[0], [2, 0], []])
def test_a_column_of_any_kind_gives_the_rows_in_their_order(column, rows):
    taken = take_rows({"completions": COMPLETIONS, "x": column}, rows)
    assert taken == {"completions": [COMPLETIONS[row] for row in rows], "x": [row + 1 for row in rows]}


def test_rows_that_are_lists_stay_whole():
    taken = take_rows({"completions": COMPLETIONS, "tests": [[1], [2, 3], []], "ids": np.eye(3)}, [1])
    assert taken["tests"] == [[2, 3]]
    assert taken["ids"][0].tolist() == [0, 1, 0]


def test_what_is_no_column_is_passed_on_as_it_is():
    others = {
        "trainer_state": TrainerState(), "log_metric": print, "scale": 2.0, "answer": None, "text": "abc", "map": {1: 1, 2: 2, 3: 3},
        "set": {1, 2, 3}, "number": np.array(5), "words": ["x", "y"],
    }  # fmt: skip
    taken = take_rows({"completions": COMPLETIONS, **others}, [0])
    assert taken.pop("completions") == ["a"]
    assert taken.keys() == others.keys()
    assert all(taken[name] is others[name] for name in others)
