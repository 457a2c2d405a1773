"""The codec beside a processor: waveforms to codes and back, and where its weights are when a processor is saved."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, BatchFeature
from transformers.processing_utils import ProcessorMixin

from .audio_clips import Clip, as_clip, is_numbers, write_audio
from .audio_layout import layout_audio, pad_codes_to_group
from .configuration_mimo_audio import MiMoAudioConfig
from .feature_extraction_mimo_audio import MiMoAudioFeatureExtractor
from .modeling_mimo_audio_tokenizer import MiMoAudioTokenizerModel
from .prompt_rows import Row, labels_of, pad_rows

CODEC_FOLDER = "audio_tokenizer"
CODEC_OPTIONS = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "device_map", "dtype")
FILE_OPTIONS = (
    "cache_dir",
    "force_download",
    "proxies",
    "token",
    "local_files_only",
    "revision",
    "subfolder",
    "trust_remote_code",
)
LONGEST_BATCHED_S = 60


def codec_folder(folder: str | Path) -> str:
    """Where a codec is: the folder inside one of MiMo-Audio, or `folder` itself, which may be the name of a model on the Hub."""
    inside = Path(folder, CODEC_FOLDER)
    return str(inside if inside.is_dir() else folder)


class CodecProcessor(ProcessorMixin):
    """What `MiMoAudioProcessor` does with a codec."""

    audio_channels: int
    group_size: int
    speech_vocab_size: str | int | list[int]
    max_length: int
    _layout: MiMoAudioConfig

    @property
    def sampling_rate(self) -> int:
        """Samples a second that the codec takes and gives: 24000."""
        return self.feature_extractor.sampling_rate

    @torch.no_grad()
    def encode_audio(self, audio: Any, sampling_rate: int | None = None) -> list[torch.Tensor]:
        """
        Codes of clips, padded to whole patches by repeating the last frame; those over a minute in segments of a minute.

        Args:
            audio: a clip or a list of clips, as in a call.

        Returns:
            For each clip `[frames, C]`, on the CPU.

        Raises:
            ValueError: as a call.
        """
        given = audio if isinstance(audio, list | tuple) and not is_numbers(audio) else [audio]
        clips = [as_clip(one, f"audio[{n}]", self.sampling_rate, sampling_rate) for n, one in enumerate(given)]
        return self._codes(clips)

    @torch.no_grad()
    def decode_audio(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """
        Samples of codes; over a minute in segments of a minute.

        Args:
            audio_codes: `[frames, C]`.

        Returns:
            float32 `[960 * frames]` at 24 kHz, on the CPU; none for no frames.

        Raises:
            ValueError: no codec, or another shape.
        """
        codec = self._codec("turn codes into samples")
        if audio_codes.ndim != 2:
            raise ValueError(
                f"`audio_codes` must be [frames, channels] of one clip; got the shape {list(audio_codes.shape)}."
            )
        if len(audio_codes) == 0:
            return torch.zeros(0)
        return codec.decode_long(audio_codes.T[None].to(codec.device)).audio_values[0, 0].cpu()

    def continuation(self, audio: Any, sampling_rate: int | None = None, return_tensors: str | None = "pt") -> Any:
        """
        Clips that are not over: what the pretrained model writes next goes on with them (arXiv 2512.23808, section 3.2), until `<|eosp|>`.

        ```python
        inputs = processor.continuation({"path": "begun.wav"})
        output = model.generate(**inputs, **model.generation_presets["continuation"])
        (more,) = processor.parse_response(output)  # more["audio_codes"]
        ```

        Args:
            audio: a clip or a list of clips, as in a call.
            sampling_rate, return_tensors: as in a call.

        Returns:
            As a call: `<|sosp|>` and the patches of each clip.

        Raises:
            ValueError: as a call.
        """
        rows: list[Row] = []
        for codes in self.encode_audio(audio, sampling_rate):
            ids, patches = (part[:-1] for part in layout_audio(codes, self._layout))  # without <|eosp|>
            self._check_length(len(ids), len(rows))
            rows.append(Row(ids, patches, torch.zeros(len(ids), dtype=torch.bool)))
        return self._batch(rows, False, True, "left", return_tensors)

    def save_audio(self, audio: Any, path: Any, sampling_rate: int | None = None):
        """
        Writes clips as 16-bit audio, rounded here to the nearest step (soundfile would cut those of a WAV towards minus infinity).

        Args:
            audio: floats `[samples]` or `[1, samples]`, or a list of such.
            path: `.wav`, `.flac` or `.ogg`; for a list of clips a list of paths.
            sampling_rate: None: the codec's.

        Raises:
            ValueError: numbers of clips and paths that differ, and see `write_audio`. ImportError: soundfile is not installed.
        """
        is_list = isinstance(audio, list | tuple) and not is_numbers(audio)
        clips, paths = (list(audio), path) if is_list else ([audio], [path])
        if isinstance(paths, str | os.PathLike) or len(paths) != len(clips):
            raise ValueError(f"`path` must be a list of {len(clips)}, one for each clip; got {paths!r}.")
        for clip, where in zip(clips, paths, strict=True):
            write_audio(clip, where, sampling_rate or self.sampling_rate)

    def to_dict(self) -> dict[str, Any]:
        """As everywhere; the codec is a path in it, and its weights are not copied on the way."""
        shell = copy.copy(self)
        codec = shell.__dict__.pop("audio_tokenizer", None)
        output = super(CodecProcessor, shell).to_dict()
        if codec is not None and codec.name_or_path:
            output["audio_tokenizer_path"] = str(codec.name_or_path)
        return output

    def save_pretrained(
        self,
        save_directory: Any,
        push_to_hub: bool = False,
        *,
        save_audio_tokenizer: bool | None = None,
        **kwargs: Any,
    ):
        """
        As everywhere.

        Args:
            save_audio_tokenizer: whether the codec's weights go into the folder `audio_tokenizer` inside; None: only where it was loaded
                from nowhere. Otherwise the place that it was loaded from is written down.
        """
        codec = getattr(self, "audio_tokenizer", None)
        if codec is not None and (save_audio_tokenizer or (save_audio_tokenizer is None and not codec.name_or_path)):
            codec.save_pretrained(Path(save_directory, CODEC_FOLDER))
        elif Path(save_directory, CODEC_FOLDER).is_dir() and codec is None:
            raise ValueError(
                f"`save_directory` must not hold another processor's codec, as this one has none; got {str(save_directory)!r}. "
                f"Remove its folder {CODEC_FOLDER}."
            )
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As everywhere; the codec comes from the folder inside, or from where it was, unless `audio_tokenizer=` is given (None: no codec)."""
        found, rest = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        path = found.pop("audio_tokenizer_path", None)
        if "audio_tokenizer" in kwargs:
            return found, rest
        options = {name: kwargs[name] for name in CODEC_OPTIONS if kwargs.get(name) is not None}
        own = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "", CODEC_FOLDER)
        if own.is_dir():
            found["audio_tokenizer"] = MiMoAudioTokenizerModel.from_pretrained(own, **options)
        elif path is not None:
            try:
                found["audio_tokenizer"] = MiMoAudioTokenizerModel.from_pretrained(path, **options)
            except OSError as error:
                raise OSError(
                    f"The codec of {str(pretrained_model_name_or_path)!r} is not at {path!r}, where it was loaded from. Give it as "
                    "`audio_tokenizer=`, or None for a processor of codes alone."
                ) from error
        return found, rest

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ):
        """Extractor and tokenizer of a folder, without asking the Auto classes for an extractor, which know ours after `register()` only."""
        options = {name: kwargs[name] for name in FILE_OPTIONS if name in kwargs}
        given = (processor_dict or {}).get("feature_extractor")
        extractor = (
            MiMoAudioFeatureExtractor.from_dict(given)
            if given
            else MiMoAudioFeatureExtractor.from_pretrained(pretrained_model_name_or_path, **options)
        )
        tokenizer = AutoTokenizer.from_pretrained(  # nosec B615  # the caller's `revision` is among the options
            pretrained_model_name_or_path, **options
        )
        return [extractor, tokenizer]

    def check_codec(self, codec: Any) -> MiMoAudioTokenizerModel:
        if not isinstance(codec, MiMoAudioTokenizerModel):
            raise TypeError(
                f"`audio_tokenizer` must be a MiMoAudioTokenizerModel or None; got {type(codec).__name__}."
            )
        sizes = [size + 1 for size in codec.config.codebook_sizes[: self.audio_channels]]
        if sizes != self._layout.speech_vocab_sizes:
            raise ValueError(
                f"`audio_tokenizer` must have codebooks of `speech_vocab_size` - 1 for each of the {self.audio_channels} channels; got "
                f"{[size - 1 for size in sizes]} for {self.speech_vocab_size!r}."
            )
        if codec.config.sampling_rate != self.sampling_rate:
            raise ValueError(
                f"`audio_tokenizer` must be of the feature extractor's rate, {self.sampling_rate}; got {codec.config.sampling_rate}."
            )
        return codec.eval()

    def _check_length(self, length: int, row: int):
        if length > self.max_length:
            raise ValueError(
                f"`text` and `audio` must fit into the context of `max_length={self.max_length}` positions; got {length} in row {row}. "
                "Split the audio, or leave out turns."
            )

    def _batch(
        self,
        rows: Sequence[Row],
        output_labels: bool,
        padding: bool | str,
        padding_side: str,
        return_tensors: str | None,
    ) -> BatchFeature:
        if padding not in (True, False, "longest", "do_not_pad"):
            raise ValueError(f"`padding` must be True ('longest') or False ('do_not_pad'); got {padding!r}.")
        pads = padding in (True, "longest")
        lengths = {len(row.input_ids) for row in rows}
        if len(lengths) > 1 and not pads and return_tensors is not None:
            raise ValueError(
                f"`padding` must be True for rows of {sorted(lengths)} positions as tensors; got {padding!r}."
            )
        given = [
            {"input_ids": row.input_ids, "audio_codes": row.audio_codes}
            | (labels_of(row, self._layout) if output_labels else {})
            for row in rows
        ]
        batches = [given] if pads else [[row] for row in given]
        padded = [pad_rows(batch, self.pad_token_id, self._layout.speech_zero_ids, padding_side) for batch in batches]
        data = {name: [row for batch in padded for row in batch[name]] for name in padded[0]}
        if return_tensors is None:
            return BatchFeature({name: [row.tolist() for row in rows] for name, rows in data.items()})
        stacked = {name: torch.stack(rows) for name, rows in data.items()}
        if return_tensors == "np":
            return BatchFeature({name: values.numpy() for name, values in stacked.items()})
        return BatchFeature(stacked, tensor_type=return_tensors)

    @property
    def speech_zero_ids(self) -> list[int]:
        """The zero id of each channel, which stands where there is no code."""
        return self._layout.speech_zero_ids

    @property
    def pad_token_id(self) -> int:
        """What `input_ids` are padded with."""
        pad = self.tokenizer.pad_token_id
        return self._layout.stop_token_ids[0] if pad is None else pad

    def _codec(self, purpose: str) -> MiMoAudioTokenizerModel:
        codec = getattr(self, "audio_tokenizer", None)
        if codec is None:
            raise ValueError(
                f"`audio_tokenizer` must be given to {purpose}, and this is a processor without its codec. Load one with "
                "`MiMoAudioTokenizerModel.from_pretrained`, or work with codes."
            )
        return codec

    def _codes(self, clips: Sequence[Clip]) -> list[torch.Tensor]:
        codes = [clip.codes for clip in clips]
        waves = [n for n, clip in enumerate(clips) if clip.codes is None]
        if waves:
            codec = self._codec(f"turn `{clips[waves[0]].name}` into codes")
            long = [n for n in waves if len(cast(Any, clips[n].samples)) > LONGEST_BATCHED_S * self.sampling_rate]
            for batch in ([n] for n in long):
                codes[batch[0]] = self._encoded(codec.encode_long, clips, batch)[0]
            short = [n for n in waves if n not in long]
            if short:
                for n, made in zip(short, self._encoded(codec.encode, clips, short), strict=True):
                    codes[n] = made
        return [self._checked(cast(torch.Tensor, code), clip.name) for code, clip in zip(codes, clips, strict=True)]

    def _encoded(self, encode: Any, clips: Sequence[Clip], numbers: Sequence[int]) -> list[torch.Tensor]:
        codec = self._codec("encode")
        features = self.feature_extractor(
            [cast(torch.Tensor, clips[n].samples) for n in numbers],
            sampling_rate=self.sampling_rate,
            return_tensors="pt",
            device=codec.device,
        ).to(codec.device)
        with torch.no_grad():
            made = encode(**features, num_quantizers=self.audio_channels)
        lengths = made.audio_codes_mask.sum(dim=1).tolist()
        return [
            pad_codes_to_group(row[:, :length].T.cpu(), self.group_size)
            for row, length in zip(made.audio_codes, lengths, strict=True)
        ]

    def _checked(self, codes: torch.Tensor, name: str) -> torch.Tensor:
        if codes.ndim != 2 or codes.shape[1] != self.audio_channels:
            raise ValueError(
                f"`{name}` must be codes [frames, {self.audio_channels}], a code for each channel; got the shape {list(codes.shape)}. The "
                f"codec gives [batch, codebooks, frames]: take `audio_codes[row, :{self.audio_channels}].T`."
            )
        if len(codes) == 0 or len(codes) % self.group_size:
            raise ValueError(
                f"`{name}` must have whole patches of {self.group_size} frames, at least one; got {len(codes)} frames. Use "
                "`pad_codes_to_group`."
            )
        zeros = torch.tensor(self._layout.speech_zero_ids)
        wrong = (codes < 0) | (codes >= zeros)
        if wrong.any():
            frame, channel = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"`{name}` must be codes of 0 to {int(zeros[channel]) - 1} in channel {channel}; got {int(codes[frame, channel])} in frame "
                f"{frame}."
            )
        return codes.cpu()


__all__ = ["CodecProcessor"]
