"""Feature extractor of MiMo-Audio: clips of 24 kHz speech as padded log-mel spectrograms."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

from .mel import log_mel
from .resampling import as_waveform

logger = logging.get_logger(__name__)


class MiMoAudioFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Log-mel spectrograms as MiMo-Audio-Tokenizer reads them (arXiv 2512.23808, section 2.1.1): magnitudes, HTK scale, natural logarithm.

    ```python
    inputs = MiMoAudioFeatureExtractor()(clips, sampling_rate=24_000, return_tensors="pt")
    codes = codec.encode(**inputs).audio_codes
    ```

    Args:
        feature_size (`int`, defaults to 128): mel bins.
        sampling_rate (`int`, defaults to 24000): samples a second of what comes in.
        n_fft, win_length, hop_length (`int`, default to 960, 960, 240): samples of a Fourier transform, of its window (the same),
            and from one to the next.
        f_min, f_max (`float`, default to 0 and `None`): range of the bins in Hz; None: half the sampling rate.
        mel_floor (`float`, defaults to 1e-7): the least magnitude before the logarithm.
        padding_value (`float`, defaults to 0.0): behind the end of shorter clips.
    """

    model_input_names = ["input_features", "input_features_mask"]

    def __init__(
        self,
        feature_size: int = 128,
        sampling_rate: int = 24_000,
        n_fft: int = 960,
        win_length: int = 960,
        hop_length: int = 240,
        f_min: float = 0.0,
        f_max: float | None = None,
        mel_floor: float = 1e-7,
        padding_value: float = 0.0,
        **kwargs,
    ):
        if win_length != n_fft:
            raise ValueError(f"`win_length` must be `n_fft`, {n_fft}, as in the released codec; got {win_length}.")
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        if self.padding_side != "right":
            raise ValueError(f"`padding_side` must be 'right', where the codec expects it; got {self.padding_side!r}.")
        self.n_fft = n_fft
        self.win_length = win_length
        self.hop_length = hop_length
        self.f_min = f_min
        self.f_max = f_max
        self.mel_floor = mel_floor

    def __call__(
        self,
        audio,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        device: str | torch.device = "cpu",
    ) -> BatchFeature:
        """
        Args:
            audio: a clip, `[samples]`, or a list of clips: tensors, arrays or lists of floats in -1 to 1, one channel.
            sampling_rate: samples a second of `audio`, to be compared with the extractor's.
            padding, max_length, truncation, pad_to_multiple_of: as in all extractors of transformers; lengths are mel frames.
            return_tensors: `"pt"` or `"np"`; None: NumPy.
            device: where the spectrograms are computed.

        Returns:
            `input_features` `[clips, frames, feature_size]`, 1 + samples // hop_length frames for a clip, and where there is padding
            `input_features_mask` `[clips, frames]`, 1 on the clip's own frames.

        Raises:
            ValueError: another rate, more than one channel, an empty clip, or samples that are not finite. TypeError: not floats.
        """
        if sampling_rate is None:
            logger.warning_once(
                f"`sampling_rate` was not given to MiMoAudioFeatureExtractor: the clips are taken for {self.sampling_rate} Hz, and "
                "another rate would go unnoticed."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"`sampling_rate` must be {self.sampling_rate}; got {sampling_rate}. Resample each clip: "
                f"`resample_to_mono(clip, {sampling_rate}, {self.sampling_rate})` of mimo_hf.modeling.mimo_audio."
            )
        features = [self._spectrogram(clip, device) for clip in self._clips(audio)]
        padded = self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=bool(padding) and padding != "do_not_pad",
            return_tensors=return_tensors,
        )
        if "attention_mask" in padded:
            padded["input_features_mask"] = padded.pop("attention_mask")
        return padded

    def _clips(self, audio) -> list[torch.Tensor]:
        if isinstance(audio, np.ndarray | torch.Tensor) and audio.ndim != 1:
            raise ValueError(
                f"`audio` must be `[samples]`, or a list of such clips; got shape {tuple(audio.shape)}. Give a batch as "
                "`list(audio)`; average channels with `resample_to_mono`."
            )
        is_batch = isinstance(audio, list | tuple) and len(audio) > 0 and not np.isscalar(audio[0])
        clips = [as_waveform(clip) for clip in (audio if is_batch else [audio])]
        for number, clip in enumerate(clips):
            if clip.ndim != 1:
                raise ValueError(
                    f"`audio[{number}]` must have one channel, `[samples]`; got shape {tuple(clip.shape)}. Average its channels: "
                    f"`resample_to_mono(clip, {self.sampling_rate}, {self.sampling_rate})`."
                )
        return clips

    def _spectrogram(self, clip: torch.Tensor, device: str | torch.device) -> np.ndarray:
        features = log_mel(
            clip.detach()[None].to(device),
            torch.tensor([len(clip)], device=device),
            self.mel_floor,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            n_mels=self.feature_size,
            sampling_rate=self.sampling_rate,
            f_min=self.f_min,
            f_max=self.f_max,
        )
        return features[0].cpu().numpy()


__all__ = ["MiMoAudioFeatureExtractor"]
