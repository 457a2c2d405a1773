"""Mel spectrograms in PyTorch, on the device where the samples are: each clip of a batch is computed as if it were alone."""

import functools
import math

import torch
import torch.nn.functional as F

BLOCK = 6000  # frames in one Fourier transform, so that an hour takes the memory of a minute


@functools.lru_cache(maxsize=16)
def mel_filters(n_fft: int, n_mels: int, f_min: float, f_max: float, sampling_rate: int) -> torch.Tensor:
    """Triangles on the HTK mel scale, 2595 log10(1 + f / 700), of height 1: `[n_fft // 2 + 1, n_mels]`."""
    low, high = (2595.0 * math.log10(1.0 + frequency / 700.0) for frequency in (f_min, f_max))
    edges = 700.0 * (10.0 ** (torch.linspace(low, high, n_mels + 2, dtype=torch.float64) / 2595.0) - 1.0)
    frequencies = torch.linspace(0.0, sampling_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0).float()


def mel_spectrogram(
    waveform: torch.Tensor,
    lengths: torch.Tensor,
    *,
    n_fft: int,
    hop_length: int,
    n_mels: int,
    sampling_rate: int,
    f_min: float = 0.0,
    f_max: float | None = None,
    normalized: bool = False,
) -> torch.Tensor:
    """
    Magnitudes in mel bins, in float32: a periodic Hann window of `n_fft` samples, centred, the clip mirrored at both ends.

    Args:
        waveform: `[batch, samples]`; what stands behind the end of a clip is not read.
        lengths: samples of each clip, `[batch]`. A clip of at most `n_fft // 2` samples, too short to be mirrored, goes on in silence.
        normalized: whether the spectrum is divided by the square root of `n_fft`.

    Returns:
        `[batch, 1 + samples // hop_length, n_mels]`, of which a clip of n samples has 1 + n // hop_length.
    """
    waveform = waveform.float()
    frames = 1 + waveform.shape[1] // hop_length
    padded = _mirrored(waveform, lengths, n_fft // 2)
    window = torch.hann_window(n_fft, device=waveform.device)
    filters = mel_filters(n_fft, n_mels, float(f_min), float(f_max or sampling_rate / 2), sampling_rate)
    filters = filters.to(waveform.device)
    blocks = []
    with torch.autocast(waveform.device.type, enabled=False):
        for first in range(0, frames, BLOCK):
            last = min(first + BLOCK, frames)
            piece = padded[:, first * hop_length : (last - 1) * hop_length + n_fft]
            spectrum = torch.stft(
                piece, n_fft, hop_length, window=window, center=False, normalized=normalized, return_complex=True
            )
            blocks.append(spectrum.abs().transpose(1, 2) @ filters)
    return torch.cat(blocks, dim=1)


def _mirrored(waveform: torch.Tensor, lengths: torch.Tensor, reach: int) -> torch.Tensor:
    """`[batch, samples + 2 * reach]`: each clip with `reach` samples before and behind it, mirrored at its own ends."""
    samples = waveform.shape[1]
    inside = torch.arange(samples, device=waveform.device) < lengths[:, None]
    waveform = F.pad(torch.where(inside, waveform, 0.0), (0, max(0, reach + 1 - samples)))
    index = torch.arange(-reach, waveform.shape[1] + reach, device=waveform.device).abs()
    last = lengths.clamp(min=reach + 1)[:, None] - 1
    index = torch.where(index > last, 2 * last - index, index).clamp(min=0)
    return waveform.gather(1, index)


def log_mel(waveform: torch.Tensor, lengths: torch.Tensor, mel_floor: float = 1e-7, **options) -> torch.Tensor:
    """
    The natural logarithm of `mel_spectrogram`, at least log(`mel_floor`): what the codec reads.

    Source: arXiv 2512.23808, section 2.1.1; windows and scale are those of the released codec.
    """
    return mel_spectrogram(waveform, lengths, **options).clamp(min=mel_floor).log()


__all__ = ["log_mel", "mel_filters", "mel_spectrogram"]
