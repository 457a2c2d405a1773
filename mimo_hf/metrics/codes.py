"""Codes of speech: how many are right, and whether the channels of a frame fit each other."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

_CODES = datasets.Features(
    {name: datasets.Sequence(datasets.Sequence(datasets.Value("int64"))) for name in ("predictions", "references")}
)
Clips = Sequence[Sequence[Sequence[int]]]


class CodeAccuracy(evaluate.Metric):
    """`CodeAccuracy().compute(predictions=written, references=true)`, each a list of clips of codes `[frames, channels]`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of a clip's codes that are right, frame by frame",
            citation="",
            inputs_description="""
Args:
    predictions: clips, each of codes [frames, channels].
    references: the true ones, as many clips with as many channels.
Returns:
    code_accuracy: right codes over all places, where a clip has as many frames as the longer of the two: a frame too few or too many is wrong.
    frame_accuracy: frames right in all channels, over the same.
    by_channel: code_accuracy of each channel.
    frames: the places counted.
""",
            features=_CODES,
        )

    def _compute(self, predictions: Clips, references: Clips) -> dict[str, float | int | list[float]]:
        written, true = _arrays(predictions, "predictions"), _arrays(references, "references")
        channels = _channels(written, true)
        right, whole, places = np.zeros(channels), 0, 0
        for number, (one, other) in enumerate(zip(written, true, strict=True)):
            if not len(other):
                raise ValueError(f"`references` must have frames; got none at {number}. Leave silent clips out.")
            both = min(len(one), len(other))
            fits = one[:both] == other[:both]
            right += fits.sum(0)
            whole += int(fits.all(1).sum())
            places += max(len(one), len(other))
        return {
            "code_accuracy": float(right.sum() / (places * channels)),
            "frame_accuracy": whole / places,
            "by_channel": [float(share) for share in right / places],
            "frames": places,
        }


class ChannelConsistency(evaluate.Metric):
    """`ChannelConsistency().compute(predictions=written, references=real)`: real clips tell which codes go together."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of frames whose neighbouring channels have codes that go together",
            citation="",
            inputs_description="""
Args:
    predictions: clips, each of codes [frames, channels].
    references: real clips, as many, of any speech and length; codes of two neighbouring channels go together if some frame here has both.
        A pair that they lack counts as wrong.
Returns:
    frame_consistency: frames whose neighbours all go together.
    pair_consistency: pairs of neighbours that do.
    by_pair: pair_consistency of channels 0 and 1, 1 and 2, and so on.
    chance: pair_consistency of channels that are as often each code as here, but know nothing of each other.
    frames: the frames counted.
""",
            features=_CODES,
        )

    def _compute(self, predictions: Clips, references: Clips) -> dict[str, float | int | list[float]]:
        written, real = _arrays(predictions, "predictions"), _arrays(references, "references")
        channels = _channels(written, real)
        if channels < 2:
            raise ValueError(f"`predictions` must have two channels or more; got {channels}.")
        made, known = np.concatenate(written), np.concatenate(real)
        for name, frames in (("predictions", made), ("references", known)):
            if not len(frames):
                raise ValueError(f"`{name}` must have frames; got none.")
        fits, chances = np.zeros((len(made), channels - 1), dtype=bool), []
        for channel in range(channels - 1):
            pairs = {tuple(pair) for pair in known[:, channel : channel + 2].tolist()}
            fits[:, channel] = [tuple(pair) in pairs for pair in made[:, channel : channel + 2].tolist()]
            left, right = (_shares(made[:, place]) for place in (channel, channel + 1))
            chances.append(sum(left.get(a, 0.0) * right.get(b, 0.0) for a, b in pairs))
        return {
            "frame_consistency": float(fits.all(1).mean()),
            "pair_consistency": float(fits.mean()),
            "by_pair": [float(share) for share in fits.mean(0)],
            "chance": float(np.mean(chances)),
            "frames": len(made),
        }


def _arrays(clips: Clips, name: str) -> list[np.ndarray]:
    arrays = []
    for number, clip in enumerate(clips):
        lengths = {len(frame) for frame in clip}
        if len(lengths) > 1:
            raise ValueError(
                f"`{name}` must have as many channels in each frame; got {sorted(lengths)} in clip {number}."
            )
        arrays.append(
            np.array(clip, dtype=np.int64).reshape(len(clip), *lengths) if lengths else np.zeros((0, 0), int)
        )
    if not arrays:
        raise ValueError(f"`{name}` must hold clips; got none.")
    return arrays


def _channels(predictions: list[np.ndarray], references: list[np.ndarray]) -> int:
    """The same in all clips that have frames; those that have none are made to fit."""
    found = {clip.shape[1] for clip in references if len(clip)}
    written = {clip.shape[1] for clip in predictions if len(clip)}
    if len(found | written) != 1:
        raise ValueError(
            f"`predictions` and `references` must have the same number of channels, with frames; got {sorted(written)} and {sorted(found)}."
        )
    (channels,) = found | written
    for clips in (predictions, references):
        for number, clip in enumerate(clips):
            if not len(clip):
                clips[number] = np.zeros((0, channels), dtype=np.int64)
    return channels


def _shares(codes: np.ndarray) -> dict[int, float]:
    values, counts = np.unique(codes, return_counts=True)
    return {int(value): count / len(codes) for value, count in zip(values, counts, strict=True)}
