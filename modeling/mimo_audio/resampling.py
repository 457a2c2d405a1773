"""Audio of any rate and any number of channels as one channel at the codec's rate, without torchaudio or librosa."""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F

ZEROS = 24  # zero crossings of the sinc on either side
ROLLOFF = 0.95  # of the lower rate's half, where the filter has fallen to half
LARGEST_FILTER = 2**24


def resample_to_mono(audio, sampling_rate: int, target_rate: int = 24_000) -> torch.Tensor:
    """
    One channel at `target_rate` Hz: channels are averaged, rates changed by a windowed sinc.

    Args:
        audio: `[samples]` or `[channels, samples]`, a tensor, an array or a list of floats in -1 to 1. What soundfile reads is
            `[samples, channels]`: give its transpose.
        sampling_rate, target_rate: samples a second, of what comes in and of what goes out.

    Returns:
        float32 `[ceil(samples * target_rate / sampling_rate)]`, on the device of `audio`.

    Raises:
        ValueError: no samples, values that are not finite, more than eight channels, or two rates with hardly a common divisor.
    """
    waveform = as_waveform(audio)
    if waveform.ndim == 2:
        if waveform.shape[0] > 8:
            raise ValueError(
                f"`audio` must have at most 8 channels in front, `[channels, samples]`; got shape {tuple(waveform.shape)}. "
                "Transpose what soundfile has read."
            )
        waveform = waveform.mean(dim=0)
    for name, rate in {"sampling_rate": sampling_rate, "target_rate": target_rate}.items():
        if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
            raise ValueError(f"`{name}` must be a whole number of samples a second; got {rate!r}.")
    if sampling_rate == target_rate:
        return waveform
    divisor = math.gcd(sampling_rate, target_rate)
    up, down = target_rate // divisor, sampling_rate // divisor
    width = math.ceil(ZEROS / _cutoff(up, down))
    if up * (2 * width + down) > LARGEST_FILTER:
        raise ValueError(
            f"`sampling_rate` must have a larger divisor in common with {target_rate} than {divisor}; got {sampling_rate}. "
            "Round it to a multiple of 25 Hz."
        )
    blocks = math.ceil(len(waveform) / down)
    padded = F.pad(waveform, (width, width + (blocks + 1) * down - len(waveform)))
    filters = _sinc_filters(up, down, width).to(waveform.device)
    outputs = F.conv1d(padded[None, None], filters[:, None], stride=down)[0]
    return outputs.T.flatten()[: math.ceil(len(waveform) * up / down)]


def as_waveform(audio) -> torch.Tensor:
    """
    float32 `[samples]` or `[channels, samples]`.

    Raises:
        TypeError: not floats. ValueError: another number of dimensions, no samples, or values that are not finite.
    """
    waveform = audio if isinstance(audio, torch.Tensor) else torch.as_tensor(np.asarray(audio))
    if not waveform.is_floating_point() and waveform.numel() > 0:
        raise TypeError(
            f"`audio` must be floats in -1 to 1; got {waveform.dtype}. Divide 16-bit samples by 32768 first."
        )
    if waveform.ndim not in (1, 2):
        raise ValueError(
            f"`audio` must be `[samples]` or `[channels, samples]` for a clip; got shape {tuple(waveform.shape)}."
        )
    if waveform.numel() == 0:
        raise ValueError(
            f"`audio` must have at least one sample; got shape {tuple(waveform.shape)}. Leave empty clips out."
        )
    if not bool(waveform.isfinite().all()):
        where = int((~waveform.isfinite()).flatten().nonzero()[0])
        raise ValueError(
            f"`audio` must be finite; got {waveform.flatten()[where].item()} at sample {where}. Replace or cut such samples."
        )
    return waveform.float()


def _cutoff(up: int, down: int) -> float:
    return min(1.0, up / down) * ROLLOFF


@functools.lru_cache(maxsize=16)
def _sinc_filters(up: int, down: int, width: int) -> torch.Tensor:
    """
    `[up, 2 * width + down]`: row j are the weights of output i * up + j on the inputs from i * down - width on.

    The output stands at (i + j / up) * down inputs; an input at distance d from it weighs c sinc(c d) cos^2(pi c d / (2 ZEROS)).
    """
    cutoff = _cutoff(up, down)
    outputs = torch.arange(up, dtype=torch.float64)[:, None] * down / up
    inputs = torch.arange(-width, width + down, dtype=torch.float64)
    distance = (cutoff * (outputs - inputs)).clamp(-ZEROS, ZEROS)
    weights = cutoff * torch.sinc(distance) * torch.cos(distance * math.pi / (2 * ZEROS)) ** 2
    return (weights / weights.sum(dim=1, keepdim=True)).float()


__all__ = ["as_waveform", "resample_to_mono"]
