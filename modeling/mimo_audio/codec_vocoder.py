"""Mel frames to samples: a transformer with a sliding window, and an inverse Fourier transform of the spectra that it writes."""

import torch
import torch.nn.functional as F
from torch import nn

from .codec_layers import MiMoAudioTokenizerLayer, below, run_layers
from .codec_quantizer import Float32Module
from .configuration_mimo_audio_tokenizer import MiMoAudioTokenizerConfig

LARGEST_MAGNITUDE = 100.0


class InverseSpectrogram(Float32Module):
    """Spectra to samples: inverse transform, window, overlap and add; `hop_length` samples a frame."""

    def __init__(self, config: MiMoAudioTokenizerConfig):
        super().__init__()
        self.n_fft, self.hop_length = config.nfft, config.hop_length
        self.register_buffer("window", torch.hann_window(config.nfft, dtype=torch.float32))

    def forward(self, spectrum: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            spectrum: complex64 `[batch, frames, n_fft // 2 + 1]`. lengths: frames of each clip; None: all.

        Returns:
            float32 `[batch, frames * hop_length]`, zeros behind the end of each clip.
        """
        frames = spectrum.shape[1]
        pieces = torch.fft.irfft(spectrum, self.n_fft, dim=-1, norm="backward") * self.window
        weights = self.window.square().expand(1, frames, -1)
        inside = below(lengths, frames)
        if inside is not None:
            pieces, weights = torch.where(inside[..., None], pieces, 0.0), weights * inside[..., None]
        audio = self._added(pieces) / self._added(weights).clamp(min=1e-11)
        inside = below(None if lengths is None else lengths * self.hop_length, frames * self.hop_length)
        return audio if inside is None else torch.where(inside, audio, 0.0)

    def _added(self, pieces: torch.Tensor) -> torch.Tensor:
        size = (pieces.shape[1] - 1) * self.hop_length + self.n_fft
        kernel, stride = (1, self.n_fft), (1, self.hop_length)
        added = F.fold(pieces.transpose(1, 2), (1, size), kernel, stride=stride)[:, 0, 0]
        trim = (self.n_fft - self.hop_length) // 2
        return added[:, trim : size - trim]


class SpectrumHead(nn.Module):
    """A linear layer for logarithmic magnitudes and phases, then the inverse spectrogram, in float32."""

    def __init__(self, config: MiMoAudioTokenizerConfig):
        super().__init__()
        self.out = nn.Linear(config.vocoder_dim, config.nfft + 2)
        self.istft = InverseSpectrogram(config)

    def forward(self, hidden_states: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        magnitude, phase = self.out(hidden_states).float().chunk(2, dim=-1)
        with torch.autocast(hidden_states.device.type, enabled=False):
            magnitude = magnitude.exp().clamp(max=LARGEST_MAGNITUDE)
            return self.istft(torch.polar(magnitude, phase), lengths)


class MiMoAudioTokenizerVocoder(nn.Module):
    """`[batch, mel frames, n_mels]` to float32 `[batch, mel frames * hop_length]`."""

    def __init__(self, config: MiMoAudioTokenizerConfig):
        super().__init__()
        self.theta = config.rope_theta
        width = config.vocoder_dim
        self.embeddings = nn.Linear(config.n_mels, width, bias=False)
        self.layers = nn.ModuleList(
            MiMoAudioTokenizerLayer(
                config,
                width,
                config.vocoder_attention_heads,
                config.vocoder_intermediate_dim,
                config.window("vocoder"),
            )
            for _ in range(config.vocoder_num_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        self.head = SpectrumHead(config)

    def forward(self, mel: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        states = run_layers(self.layers, self.embeddings(mel), below(lengths, mel.shape[1]), self.theta)
        return self.head(self.layer_norm(states), lengths)


__all__ = ["InverseSpectrogram", "MiMoAudioTokenizerVocoder"]
