"""What the codec is trained on besides its codebooks: mel spectrograms of several resolutions."""

import torch

from .mel import mel_spectrogram

RESOLUTIONS = (5, 6, 7)


def multi_mel_loss(
    audio: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor, sampling_rate: int = 24_000
) -> torch.Tensor:
    r"""
    \\(\sum_{i \in \{5, 6, 7\}} |S_i(x) - S_i(\hat x)|\\), the mean over the frames and bins of all clips (arXiv 2512.23808, section 2.1.2).

    \\(S_i\\) has \\(2^i\\) mel bins, windows of \\(15 \cdot 2^{i-1}\\) samples, half of that from one to the next, and a Fourier transform
    divided by the square root of its size. Magnitudes, not logarithms: the report does not say which.

    Args:
        audio, target: `[batch, samples]`.
        lengths: samples of each clip, `[batch]`; the rest is not read.
    """
    total = torch.zeros((), device=audio.device)
    for i in RESOLUTIONS:
        options = {
            "n_fft": 15 * 2 ** (i - 1),
            "hop_length": 15 * 2 ** (i - 2),
            "n_mels": 2**i,
            "sampling_rate": sampling_rate,
            "normalized": True,
        }
        difference = mel_spectrogram(audio, lengths, **options) - mel_spectrogram(target, lengths, **options)
        frames = 1 + lengths // options["hop_length"]
        inside = torch.arange(difference.shape[1], device=audio.device) < frames[:, None]
        total = total + torch.where(inside[..., None], difference, 0.0).abs().sum() / (frames.sum() * 2**i)
    return total


__all__ = ["multi_mel_loss"]
