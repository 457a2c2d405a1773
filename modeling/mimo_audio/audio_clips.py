"""Clips as people have them, files, waveforms or codes, and what is heard of the model as a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from .resampling import as_waveform, resample_to_mono

logger = logging.get_logger(__name__)

FULL_SCALE = 2**15  # of 16-bit samples
WRITTEN = (".wav", ".flac", ".ogg")


@dataclass
class Clip:
    """One of both: `codes` `[frames, C]`, or `samples` float32 `[samples]` at the codec's rate. `name`: what the caller calls it."""

    name: str
    codes: torch.Tensor | None = None
    samples: torch.Tensor | None = None


def as_clip(
    given: Any, name: str, rate: int, given_rate: int | None = None, most_seconds: float = float("inf")
) -> Clip:
    """
    A clip of a file (any rate, any channels), a waveform (one channel at `rate`), or codes.

    Args:
        given: a path; floats `[samples]`; whole numbers `[frames, C]`; or a part of a message, `{"path": ...}`, `{"array": ...,
            "sampling_rate": ...}` or `{"codes": ...}`.
        name: what the caller calls it.
        rate: samples a second that the codec takes.
        given_rate: samples a second of a waveform, where it is known.
        most_seconds: longer clips are refused before they are read.

    Raises:
        ValueError: none or several of the three, another rate, a clip that is too long, empty, of several channels or not finite.
        FileNotFoundError: no such file. ImportError: soundfile is not installed.
    """
    if isinstance(given, Mapping):
        names = [key for key in ("path", "url", "audio", "array", "codes") if given.get(key) is not None]
        # datasets' audio columns have both, the path for information
        names = ["array"] if set(names) == {"path", "array"} else names
        if len(names) != 1:
            raise ValueError(
                f"`{name}` must have one of 'path', 'array' and 'codes'; got {names or sorted(set(given) - {'type'})}."
            )
        given_rate = given.get("sampling_rate", given_rate)
        given = given[names[0]]
        if names == ["codes"]:
            return Clip(name, codes=_as_codes(given, name))
    if isinstance(given, str | os.PathLike):
        return Clip(name, samples=read_audio(given, rate, most_seconds))
    if not isinstance(given, torch.Tensor):
        given = np.asarray(given)
    if given.ndim == 2 and not _is_float(given):
        return Clip(name, codes=_as_codes(given, name))
    if given_rate is not None and given_rate != rate:
        raise ValueError(
            f"`sampling_rate` must be {rate} for a waveform; got {given_rate} of `{name}`. Resample it: `resample_to_mono(audio, "
            f"{given_rate}, {rate})` of mimo_hf.modeling.mimo_audio."
        )
    samples = as_waveform(given)
    if samples.ndim != 1:
        raise ValueError(
            f"`{name}` must have one channel, `[samples]`, or be codes, whole numbers `[frames, channels]`; got floats of shape "
            f"{tuple(samples.shape)}. Average channels with `resample_to_mono`."
        )
    _check_length(name, len(samples) / rate, most_seconds)
    return Clip(name, samples=samples)


def read_audio(path: str | os.PathLike[str], rate: int = 24_000, most_seconds: float = float("inf")) -> torch.Tensor:
    """
    A file that soundfile reads (WAV, FLAC, Ogg, MP3), of any rate and up to eight channels.

    Returns:
        float32 `[samples]` at `rate` Hz, one channel.

    Raises:
        FileNotFoundError: no such file. ImportError: soundfile is not installed. ValueError: a file that is no audio, empty, or longer than
            `most_seconds`.
    """
    soundfile = _soundfile()
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        with soundfile.SoundFile(str(path)) as file:
            _check_length(str(path), file.frames / file.samplerate, most_seconds)
            samples, own_rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(f"`{path}` must be a file of audio that soundfile reads; got {error}") from None
    if len(samples) == 0:
        raise ValueError(f"`{path}` must have at least one sample; got none.")
    return resample_to_mono(samples.T, own_rate, rate)


def write_audio(audio: Any, path: str | os.PathLike[str], rate: int = 24_000):
    """
    Writes 16-bit samples, rounded here: soundfile would round those of a FLAC and cut those of a WAV towards minus infinity.

    Args:
        audio: floats `[samples]` or `[1, samples]`; what lies outside -1 to 1 is clipped, with a warning.
        path: its ending chooses the format: `.wav`, `.flac` or `.ogg`.

    Raises:
        ValueError: another ending or shape, no samples, or samples that are not finite. ImportError: soundfile is not installed.
    """
    if Path(path).suffix.lower() not in WRITTEN:
        raise ValueError(f"`path` must end with {', '.join(WRITTEN[:-1])} or {WRITTEN[-1]}; got {str(path)!r}.")
    samples = as_waveform(audio).detach().cpu().double()
    if samples.ndim == 2 and len(samples) == 1:
        samples = samples[0]
    if samples.ndim != 1:
        raise ValueError(
            f"`audio` must be `[samples]` of one clip; got shape {tuple(samples.shape)}. Write each clip alone."
        )
    whole = (samples * FULL_SCALE).round()
    clipped = int(((whole < -FULL_SCALE) | (whole > FULL_SCALE)).sum())
    if clipped:
        logger.warning(f"{clipped} of {len(whole)} samples lie outside -1 to 1 and are clipped in {str(path)!r}.")
    written = whole.clamp(-FULL_SCALE, FULL_SCALE - 1).short().numpy()
    kind = None if Path(path).suffix.lower() == ".ogg" else "PCM_16"
    _soundfile().write(str(path), written, rate, subtype=kind)


def named_clips(audio: Any, places: Sequence[int]) -> list[tuple[str, Any]]:
    """(what the caller calls it, clip) in the order of the places; a list for each text is checked against its own."""
    if audio is None:
        return []
    if not isinstance(audio, list | tuple) or is_numbers(audio):
        return [("audio", audio)]
    is_nested = len(audio) == len(places) and all(
        isinstance(one, list | tuple) and not is_numbers(one) for one in audio
    )
    if not is_nested:
        return [(f"audio[{number}]", clip) for number, clip in enumerate(audio)]
    for number, (clips, expected) in enumerate(zip(audio, places, strict=True)):
        if len(clips) != expected:
            raise ValueError(
                f"`audio[{number}]` must have a clip for each of the {expected} places in its text; got {len(clips)}."
            )
    return [(f"audio[{row}][{number}]", clip) for row, clips in enumerate(audio) for number, clip in enumerate(clips)]


def is_numbers(values: Sequence[Any]) -> bool:
    """Whether a list is one clip: of numbers, or of frames of whole numbers."""
    first = values[0] if len(values) > 0 else None
    if isinstance(first, list | tuple) and len(first) > 0:
        return isinstance(first[0], int | np.integer)
    return isinstance(first, int | float | np.number)


def _soundfile():
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("audio files need soundfile: pip install 'mimo-hf[audio]'") from error
    return soundfile


def _is_float(values: Any) -> bool:
    return values.is_floating_point() if isinstance(values, torch.Tensor) else values.dtype.kind not in "iub"


def _as_codes(given: Any, name: str) -> torch.Tensor:
    codes = given if isinstance(given, torch.Tensor) else torch.as_tensor(np.asarray(given))
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise ValueError(f"`{name}` must be whole numbers, `[frames, channels]`, to be codes; got {codes.dtype}.")
    return codes.long()


def _check_length(name: str, seconds: float, most_seconds: float):
    if seconds > most_seconds:
        raise ValueError(
            f"`{name}` must be at most {most_seconds:.0f} s, which fill the model's context; got {seconds:.0f} s. Cut it into pieces."
        )


__all__ = ["Clip", "as_clip", "is_numbers", "named_clips", "read_audio", "write_audio"]
