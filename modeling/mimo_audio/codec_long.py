"""Audio of any length: encoding and decoding in segments, and decoding of codes as they arrive."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .codec_inputs import check_codes, check_quantizers
from .configuration_mimo_audio_tokenizer import MiMoAudioTokenizerConfig

SEGMENT = 1500  # frames of codes: 60 s


@dataclass
class MiMoAudioStreamState:
    """
    What `decode_chunk` keeps of one stream between calls. Each stream has its own.

    Args:
        left_context: frames of codes before the new ones that are decoded again with them.
        right_context: frames that must have arrived behind a frame before its samples are given out.
    """

    left_context: int = 250
    right_context: int = 40
    codes: torch.Tensor | None = None  # [batch, quantizers, frames]
    processed: int = 0  # of these frames, samples were given out
    is_finished: bool = False

    def __post_init__(self):
        if self.right_context < 0:
            raise ValueError(f"`right_context` must be at least 0 frames; got {self.right_context}.")
        if self.left_context < max(1, self.right_context):
            raise ValueError(
                f"`left_context` must be at least 1 frame and at least `right_context`, {self.right_context}, whose frames are still "
                f"to be given out; got {self.left_context}."
            )


class LongAudioMixin:
    """`encode_long`, `decode_long` and `stream_decode` of the codec."""

    if TYPE_CHECKING:
        config: MiMoAudioTokenizerConfig

        def encode(self, *args, **kwargs): ...
        def decode(self, *args, **kwargs): ...
        def _features(
            self, features, features_mask, values, values_mask
        ) -> tuple[torch.Tensor, torch.Tensor | None]: ...

    @torch.no_grad()
    def decode_chunk(
        self, audio_codes: torch.Tensor, state: MiMoAudioStreamState, is_last: bool = False
    ) -> torch.Tensor:
        """
        The samples that the next codes of a stream settle.

        Args:
            audio_codes: `[batch, quantizers, frames]`, the codes that follow those given before; no frames, to end a stream.
            state: the stream's own, changed by the call.
            is_last: whether these are the last; then all remaining samples are given out.

        Returns:
            float32 `[batch, 1, samples]`, possibly of no samples.

        Raises:
            ValueError: a stream that has ended, other rows or quantizers than before, or codes that `decode` refuses.
        """
        if state.is_finished:
            raise ValueError(
                "`state` must be that of a stream which goes on; got one that has ended. Make a new state."
            )
        if audio_codes.ndim == 3 and audio_codes.shape[2] > 0:
            check_codes(self.config, audio_codes, None)
        if state.codes is not None:
            if audio_codes.shape[:2] != state.codes.shape[:2]:
                raise ValueError(
                    f"`audio_codes` must have {tuple(state.codes.shape[:2])} rows and quantizers, as the stream's codes before; got "
                    f"shape {tuple(audio_codes.shape)}."
                )
            audio_codes = torch.cat([state.codes, audio_codes.to(state.codes.device)], dim=2)
        state.codes, state.is_finished = audio_codes, is_last
        kept = audio_codes.shape[2]
        settled = kept if is_last else max(state.processed, kept - state.right_context)
        audio = torch.zeros(len(audio_codes), 1, 0, device=audio_codes.device)
        if settled > state.processed:
            unit = self.config.samples_per_code
            audio = self.decode(audio_codes).audio_values[..., state.processed * unit : settled * unit]
            state.processed = settled
        dropped = max(0, kept - state.left_context)
        state.codes = audio_codes[:, :, dropped:]
        state.processed -= dropped
        return audio

    def stream_decode(
        self, audio_codes: Iterable[torch.Tensor], left_context: int = 250, right_context: int = 40
    ) -> Iterator[torch.Tensor]:
        """
        Samples of codes that arrive in pieces, as soon as `right_context` frames behind them are known, in constant memory.

        The decoder's norms see the frames that are kept, not the whole clip: the samples are near those of `decode`, not equal.

        Args:
            audio_codes: `[batch, quantizers, frames]` each, of any numbers of frames.
            left_context, right_context: frames of 40 ms; 10 s and 1.6 s.

        Yields:
            float32 `[batch, 1, samples]`; all together 960 samples a frame.
        """
        state = MiMoAudioStreamState(left_context, right_context)
        for codes in audio_codes:
            audio = self.decode_chunk(codes, state)
            if audio.shape[2] > 0:
                yield audio
        if state.codes is not None:
            audio = self.decode_chunk(state.codes[:, :, :0], state, is_last=True)
            if audio.shape[2] > 0:
                yield audio

    @torch.no_grad()
    def encode_long(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        *,
        input_values: torch.Tensor | None = None,
        input_values_mask: torch.Tensor | None = None,
        segment_frames: int = SEGMENT,
    ):
        """
        As `encode`, in segments that do not see each other, so that memory does not grow with the square of the length.

        Args:
            segment_frames: frames of codes a segment; 1500 are 60 s.

        Returns:
            `audio_codes` and `audio_codes_mask`, as many frames as from `encode`.
        """
        from .modeling_mimo_audio_tokenizer import MiMoAudioTokenizerEncoderOutput

        _check_segment(segment_frames)
        check_quantizers(self.config, num_quantizers)
        features, lengths = self._features(input_features, input_features_mask, input_values, input_values_mask)
        rows, frames = features.shape[:2]
        if lengths is None:
            lengths = torch.full((rows,), frames, device=features.device)
        step = segment_frames * self.config.mel_frames_per_code
        parts = []
        for first in range(0, frames, step):
            piece = features[:, first : first + step]
            own = (lengths - first).clamp(0, piece.shape[1])
            going = own > 0
            if bool(going.any()):
                mask = torch.arange(piece.shape[1], device=own.device) < own[going, None]
                made = self.encode(piece[going], mask, num_quantizers).audio_codes
                codes = made.new_zeros(rows, *made.shape[1:])
                codes[going] = made
                parts.append(codes)
        valid = self.config.code_length(lengths)
        codes = torch.cat(parts, dim=2)
        mask = torch.arange(codes.shape[2], device=codes.device) < valid[:, None]
        return MiMoAudioTokenizerEncoderOutput(audio_codes=codes, audio_codes_mask=mask.long())

    @torch.no_grad()
    def decode_long(
        self,
        audio_codes: torch.Tensor,
        audio_codes_mask: torch.Tensor | None = None,
        segment_frames: int = SEGMENT,
        crossfade_frames: int = 0,
    ):
        """
        As `decode`, in segments; codes that fit into one give the same samples.

        Args:
            segment_frames: frames of codes a segment.
            crossfade_frames: frames that a segment is decoded beyond its end; there the samples go over linearly into those of the next.

        Returns:
            `audio_values` float32 `[batch, 1, frames * 960]`.
        """
        from .modeling_mimo_audio_tokenizer import MiMoAudioTokenizerDecoderOutput

        _check_segment(segment_frames)
        if not 0 <= crossfade_frames <= segment_frames:
            raise ValueError(
                f"`crossfade_frames` must be 0 to `segment_frames`, {segment_frames}; got {crossfade_frames}."
            )
        codes, lengths = check_codes(self.config, audio_codes, audio_codes_mask)
        rows, frames, unit = codes.shape[0], codes.shape[2], self.config.samples_per_code
        if lengths is None:
            lengths = torch.full((rows,), frames, device=codes.device)
        audio = torch.zeros(rows, frames * unit, device=codes.device)
        for first in range(0, frames, segment_frames):
            piece = codes[:, :, first : first + segment_frames + crossfade_frames]
            going = lengths > first
            own = (lengths[going] - first).clamp(max=piece.shape[2])
            mask = torch.arange(piece.shape[2], device=codes.device) < own[:, None]
            made = self.decode(piece[going], mask).audio_values[:, 0]
            start, end = first * unit, first * unit + made.shape[1]
            before = audio[going, start:end]
            fade = min(crossfade_frames if first > 0 else 0, piece.shape[2]) * unit
            weight = torch.ones(made.shape[1], device=codes.device)
            weight[:fade] = (torch.arange(fade, device=codes.device) + 0.5) / max(1, fade)
            audio[going, start:end] = before * (1 - weight) + made * weight
        return MiMoAudioTokenizerDecoderOutput(audio_values=audio[:, None])


def _check_segment(segment_frames: int):
    if segment_frames < 1:
        raise ValueError(f"`segment_frames` must be at least 1 frame of codes; got {segment_frames}. 1500 are 60 s.")


__all__ = ["LongAudioMixin", "MiMoAudioStreamState"]
