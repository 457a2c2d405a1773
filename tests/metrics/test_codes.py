"""Shares of codes against loops over numpy arrays, and what is refused."""

import numpy as np
import pytest
import torch

from mimo_hf.metrics.codes import ChannelConsistency, CodeAccuracy


@pytest.fixture
def clips():
    """Five clips of four channels; predictions are shorter, longer and as long."""
    rng = np.random.default_rng(0)
    true = [rng.integers(3, size=(frames, 4)) for frames in (5, 9, 1, 12, 7)]
    made = [rng.integers(3, size=(frames, 4)) for frames in (5, 6, 4, 0, 7)]
    return made, true


def test_accuracy_is_counted_place_by_place(clips):
    made, true = clips
    found = CodeAccuracy().compute(predictions=made, references=true)
    right, whole, places = [0] * 4, 0, 0
    for one, other in zip(made, true, strict=True):
        for frame in range(max(len(one), len(other))):
            places += 1
            inside = frame < len(one) and frame < len(other)
            hits = [inside and int(one[frame][channel]) == int(other[frame][channel]) for channel in range(4)]
            right = [count + hit for count, hit in zip(right, hits, strict=True)]
            whole += all(hits)
    assert found["frames"] == places == 5 + 9 + 4 + 12 + 7
    assert found["code_accuracy"] == pytest.approx(sum(right) / (4 * places))
    assert found["frame_accuracy"] == pytest.approx(whole / places)
    assert found["by_channel"] == pytest.approx([count / places for count in right])
    assert 0 < found["frame_accuracy"] < found["code_accuracy"] < 1


def test_tensors_and_batches_count_as_lists_do(clips):
    made, true = clips
    metric = CodeAccuracy()
    for one, other in zip(made, true, strict=True):
        metric.add(prediction=torch.tensor(one).tolist(), reference=torch.tensor(other).tolist())
    assert metric.compute() == CodeAccuracy().compute(predictions=made, references=true)
    assert CodeAccuracy().compute(predictions=true, references=true)["frame_accuracy"] == 1


def test_channels_that_follow_each_other_are_consistent_and_shuffled_ones_are_at_chance():
    rng = np.random.default_rng(0)
    tables = [rng.permutation(16) for _ in range(3)]

    def frames(count):
        channels = [rng.integers(16, size=count)]
        for table in tables:
            channels.append(table[channels[-1]])
        return np.stack(channels, axis=1)

    real, made = frames(500), frames(3000)
    found = ChannelConsistency().compute(predictions=[made], references=[real])
    assert (found["frame_consistency"], found["pair_consistency"]) == (1, 1)
    assert found["chance"] == pytest.approx(1 / 16, abs=0.005)

    mixed = np.stack([rng.permutation(made[:, channel]) for channel in range(4)], axis=1)
    found = ChannelConsistency().compute(predictions=[mixed[:1000], mixed[1000:]], references=[real[:7], real[7:]])
    fits = [[table[frame[place]] == frame[place + 1] for place, table in enumerate(tables)] for frame in mixed]
    assert found["pair_consistency"] == pytest.approx(np.mean(fits))
    assert found["by_pair"] == pytest.approx(np.mean(fits, axis=0))
    assert found["frame_consistency"] == pytest.approx(np.mean([all(row) for row in fits]))
    assert found["pair_consistency"] == pytest.approx(found["chance"], abs=0.02)
    assert found["frames"] == 3000


def test_chance_is_of_codes_as_often_as_they_are():
    made, real = [[[0, 0], [0, 1], [1, 1], [0, 1]]], [[[0, 1], [1, 0]]]
    found = ChannelConsistency().compute(predictions=made, references=real)
    assert found["chance"] == pytest.approx(3 / 4 * 3 / 4 + 1 / 4 * 1 / 4)  # 0 then 1, and 1 then 0
    assert found["pair_consistency"] == 1 / 2


@pytest.mark.parametrize("metric", [CodeAccuracy, ChannelConsistency])
def test_other_channels_and_nothing_at_all_are_refused(metric):
    with pytest.raises(ValueError, match=r"same number of channels, with frames; got \[2\] and \[3\]"):
        metric().compute(predictions=[[[1, 2]]], references=[[[1, 2, 3]]])
    with pytest.raises(
        ValueError, match=r"`predictions` must have as many channels in each frame; got \[2, 3\] in clip 1"
    ):
        metric().compute(predictions=[[[1, 2]], [[1, 2], [1, 2, 3]]], references=[[[1, 2]], [[1, 2]]])
    with pytest.raises(ValueError, match=r"`references` must have frames; got none"):
        metric().compute(predictions=[[[1, 2]]], references=[[]])


def test_one_channel_has_no_neighbour():
    with pytest.raises(ValueError, match="`predictions` must have two channels or more; got 1"):
        ChannelConsistency().compute(predictions=[[[1]]], references=[[[1]]])
