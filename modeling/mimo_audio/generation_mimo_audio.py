"""Decoding of MiMo-Audio: a text id at each position, and the codes of a patch wherever that id is `<|empty|>`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.utils import logging

from ..transformers_versions import cache_argument, cache_of
from .audio_layout import parse_interleaved
from .configuration_mimo_audio import MiMoAudioConfig
from .streamer_mimo_audio import MiMoAudioStreamer

logger = logging.get_logger(__name__)

Sampler = Callable[[torch.Tensor], torch.Tensor]

AUDIO_OPTIONS = ("audio_do_sample", "audio_temperature", "audio_top_k", "audio_top_p")
AUDIO_SAMPLER = {"audio_do_sample": True, "audio_temperature": 0.9, "audio_top_k": 0, "audio_top_p": 0.95}
AUDIO_DEFAULTS = {"audio_temperature": 0.9, "audio_top_k": 50, "audio_top_p": 0.95}
REFUSED = {
    "assistant_model": "assisted decoding would have to draft codes as well",
    "prompt_lookup_num_tokens": "assisted decoding would have to draft codes as well",
    "assistant_early_exit": "assisted decoding would have to draft codes as well",
    "use_mtp": "this model has no heads that draft",
    "constraints": "beams would have to score codes as well",
    "force_words_ids": "beams would have to score codes as well",
    "dola_layers": "only greedy decoding and sampling are defined for patches",
    "penalty_alpha": "only greedy decoding and sampling are defined for patches",
    "prefill_chunk_size": "codes are not cut into chunks",
    "custom_generate": "only this class's own decoding writes codes",
    "inputs_embeds": "the patches that are written next to it need `input_ids`",
}


@dataclass
class MiMoAudioGenerateOutput(GenerateDecoderOnlyOutput):
    """
    What MiMo-Audio's `generate` returns; a T of prompt and new positions.

    Args:
        sequences: text ids, `[B, T]`, `<|empty|>` where there is a patch.
        audio_codes: `[B, T, G, C]`, zero ids where there is text.
        audio: of each row the new speech, 24 kHz, `[samples]`; with `output_audio=True`.
        prompt_length: positions of the prompt, at the front of T.
    """

    audio_codes: torch.LongTensor | None = None
    audio: list[torch.Tensor] | None = None
    prompt_length: int | None = None


class MiMoAudioGenerationMixin(GenerationMixin):
    """`generate` for rows that speak beside rows that write."""

    config: MiMoAudioConfig
    write_patches: Callable[[torch.Tensor, Sampler], torch.Tensor]

    @property
    def generation_presets(self) -> dict[str, dict[str, Any]]:
        """
        Arguments of `generate` for each task, as the official inference code samples: `asr`, `understanding`, `text_chat`, `tts`,
        `instruct_tts`, `spoken_dialogue`, `speech_to_text_dialogue`, `few_shot_speech`, `default`; and `continuation`, as the few shots.
        """
        config = self.config
        stops = config.stop_token_ids
        spoken = [*stops, config.eostm_token_id]
        eos = [token for token in stops if token != config.im_end_token_id]
        return {
            "asr": _preset(stops),
            "understanding": _preset(stops, 0.3),
            "text_chat": _preset(stops, 0.4),
            "tts": _preset(spoken, 0.6, top_p=1.0),
            "instruct_tts": _preset(spoken, 0.6, top_p=1.0),
            "spoken_dialogue": _preset(spoken, 0.6),
            "speech_to_text_dialogue": _preset(stops, 0.6),
            "few_shot_speech": _preset([*eos, config.eostm_token_id]),
            "continuation": _preset([*eos, config.eosp_token_id]),
            "default": _preset(stops, 0.6, top_k=50) | {"audio_top_k": 50},
        }

    def set_generation_defaults(self):
        """What ends a turn and what pads, where no generation_config.json says it."""
        generation_config = cast(GenerationConfig, self.generation_config)
        stops = self.config.stop_token_ids
        generation_config.eos_token_id = stops
        # A file written with this mark loses `audio_temperature` and its like when it is read.
        generation_config._from_model_config = False
        if generation_config.pad_token_id is None:
            generation_config.pad_token_id = stops[0]

    def adjust_generation_fn(self, *args: Any, **kwargs: Any):
        """As everywhere; a folder without generation_config.json gets this class's defaults."""
        super().adjust_generation_fn(*args, **kwargs)
        if getattr(self.generation_config, "_from_model_config", False):
            self.set_generation_defaults()

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        audio_codes: torch.Tensor | None = None,
        output_audio: bool = False,
        audio_tokenizer: Any = None,
        generation_mode: str | None = None,
        **kwargs: Any,
    ) -> MiMoAudioGenerateOutput | torch.Tensor | list[torch.Tensor]:
        r"""
        Continues prompts, by greedy decoding or sampling. Rows of one batch may speak or write; what one does moves no other.

        Args:
            inputs: text ids, `[B, T]`, padded on the left; also called `input_ids`.
            audio_codes: `[B, T, G, C]`; None: the prompts have no audio.
            audio_do_sample, audio_temperature, audio_top_k, audio_top_p:
                As their namesakes for text, for all channels; 0 for `audio_top_k` switches it off. `audio_do_sample` is
                `do_sample` where it is not given, the others are 0.9, 50 and 0.95. All may stand in a `generation_config`.
            output_audio: decode the new patches with `audio_tokenizer`.
            audio_tokenizer: a codec; its `decode(audio_codes [1, C, frames])` has `audio_values [1, 1, samples]`.
            generation_mode: `"audio"`, as pipelines say it: unless `eos_token_id` is given, the end of speech ends a row too,
                and the whole output comes back. `"text"` and None change nothing.
            kwargs: as in transformers' `generate`, such as `attention_mask`, `max_new_tokens` (positions: a patch is one),
                `min_new_tokens`, `eos_token_id`, `num_return_sequences`, and those of `model.generation_presets["tts"]`.

        Returns:
            `MiMoAudioGenerateOutput`. With `return_dict_in_generate=False` its `sequences`, or its `audio` where that is asked.

        Raises:
            ValueError: decoding by beams, drafts or contrast; prompts longer than the context; audio without a codec.
        """
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if input_ids is None:
            raise ValueError("`input_ids` must be given, `[batch, length]`. Use `layout_text` or `layout_audio`.")
        for name in REFUSED:
            if kwargs.get(name) is not None:
                self._refuse(name, kwargs[name])
        if generation_mode not in (None, "text", "audio"):
            raise ValueError(f"`generation_mode` must be 'text' or 'audio'; got {generation_mode!r}.")
        own_stops = None if generation_config is None else generation_config.eos_token_id
        if (
            generation_mode == "audio"
            and kwargs.get("eos_token_id") is None
            and own_stops in (None, self.config.stop_token_ids)
        ):
            kwargs["eos_token_id"] = [*self.config.stop_token_ids, self.config.eostm_token_id]
        if output_audio and audio_tokenizer is None:
            raise ValueError(
                "`audio_tokenizer` must be given with `output_audio=True`: the codec that turns codes into samples. Load one with "
                "`MiMoAudioTokenizerModel.from_pretrained`."
            )
        limit = self.config.max_position_embeddings
        if input_ids.shape[1] >= limit:
            raise ValueError(
                f"`input_ids` must be shorter than the context of `max_position_embeddings={limit}` positions; got "
                f"{input_ids.shape[1]}. Split the audio, or leave out turns."
            )
        layers = cast(torch.nn.Module, self).modules()
        if getattr(self, "training", False) and any(
            getattr(layer, "gradient_checkpointing", False) for layer in layers
        ):
            raise ValueError(
                "`model.training` must be False to generate under gradient checkpointing, which keeps no cache in training; "
                "got True. Call `model.eval()` first."
            )
        if audio_codes is None:
            zeros = torch.tensor(self.config.speech_zero_ids, device=input_ids.device)
            audio_codes = zeros.repeat(*input_ids.shape, self.config.group_size, 1)
            if (input_ids == self.config.empty_token_id).any():
                raise ValueError(
                    "`audio_codes` must be given, as `input_ids` has `<|empty|>`, the place of a patch. Use `layout_audio`."
                )
        returns_dict = kwargs.pop("return_dict_in_generate", None)
        if returns_dict is None:
            given = cast(GenerationConfig, self.generation_config) if generation_config is None else generation_config
            returns_dict = given.return_dict_in_generate
        output = super().generate(
            input_ids,
            generation_config=generation_config,
            audio_codes=audio_codes,
            return_dict_in_generate=True,
            **kwargs,
        )
        output = cast(MiMoAudioGenerateOutput, output)
        output.prompt_length = input_ids.shape[1]
        if output_audio:
            output.audio = self._decode_audio(output, input_ids.shape[1], audio_tokenizer)
        if returns_dict is False and generation_mode != "audio":
            return output.sequences if output.audio is None else output.audio
        return output

    def generate_batch(self, *args: Any, **kwargs: Any):
        """Refused: continuous batching hands text ids alone to the model."""
        raise NotImplementedError(
            "MiMo-Audio can't run in continuous batching, which knows no codes. Call `generate`."
        )

    def _prepare_generation_config(self, generation_config: GenerationConfig | None, **kwargs: Any):
        options = {name: kwargs.pop(name) for name in AUDIO_OPTIONS if name in kwargs}
        prepared, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for name in AUDIO_OPTIONS:
            value = options.get(name, getattr(prepared, name, None))
            setattr(prepared, name, AUDIO_DEFAULTS.get(name) if value is None else value)
        for name in ("num_beams", "num_beam_groups"):
            if (getattr(prepared, name, None) or 1) > 1:
                self._refuse(name, getattr(prepared, name))
        for name in REFUSED:
            if getattr(prepared, name, None):
                self._refuse(name, getattr(prepared, name))
        if prepared.cache_implementation == "paged":
            self._refuse("cache_implementation", "paged")
        _check_audio_options(prepared)
        return prepared, model_kwargs

    def _refuse(self, name: str, value: Any):
        shown = value if isinstance(value, (bool, int, float, str)) else type(value).__name__
        reason = REFUSED.get(name, "beams would have to score codes as well")
        raise ValueError(
            f"`{name}` must not be given to MiMo-Audio's `generate`: {reason}; got {shown!r}. Leave it out; choose by `do_sample`."
        )

    def prepare_inputs_for_generation(self, input_ids, audio_codes=None, **kwargs):
        """As everywhere, and the codes of those positions that go into the model."""
        model_inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if audio_codes is not None:
            length = model_inputs["input_ids"].shape[1]
            model_inputs["audio_codes"] = audio_codes[:, -length:].to(model_inputs["input_ids"].device)
        return model_inputs

    def _sample(
        self,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> MiMoAudioGenerateOutput:
        """transformers' loop, with a patch for every row that says `<|empty|>`."""
        config = self.config
        audio_codes = model_kwargs["audio_codes"]
        zeros = torch.tensor(config.speech_zero_ids, device=audio_codes.device).expand(config.group_size, -1)
        sampler = _audio_sampler(generation_config)
        has_stops = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        unfinished = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        is_done = False
        records: dict[str, Any] = {
            name: ()
            for name in ("scores", "logits", "attentions", "hidden_states")
            if getattr(generation_config, f"output_{name}")
        }
        outputs = self._prefill(input_ids, generation_config, model_kwargs)
        while self._has_unfinished_sequences(is_done, synced_gpus, device=input_ids.device):
            if outputs is None:
                inputs = self.prepare_inputs_for_generation(
                    input_ids, next_sequence_length=1 if model_kwargs["use_cache"] else None, **model_kwargs
                )
                outputs = self(**inputs, return_dict=True)
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
            if synced_gpus and is_done:
                outputs = None
                continue
            logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=input_ids.device)
            scores = logits_processor(input_ids, logits)
            seen = {"scores": scores, "logits": logits, "attentions": outputs.attentions}
            seen["hidden_states"] = outputs.hidden_states
            records = {name: (*record, seen[name]) for name, record in records.items()}

            next_ids = _draw(scores) if generation_config.do_sample else scores.argmax(dim=-1)
            if has_stops:
                next_ids = next_ids.where(unfinished, generation_config._pad_token_tensor)
            codes = zeros.repeat(len(input_ids), 1, 1)
            speaking = ((next_ids == config.empty_token_id) & unfinished).to(outputs.patch_hidden_states.device)
            if speaking.any():
                patches = self.write_patches(outputs.patch_hidden_states[speaking, -1], sampler)
                codes[speaking.to(codes.device)] = patches.to(codes.device)
            input_ids = torch.cat([input_ids, next_ids[:, None]], dim=-1)
            audio_codes = torch.cat([audio_codes, codes[:, None]], dim=1)
            model_kwargs["audio_codes"] = audio_codes
            if streamer is not None:
                if isinstance(streamer, MiMoAudioStreamer):
                    streamer.put_codes(codes.cpu())
                streamer.put(next_ids.cpu())
            unfinished = unfinished & ~stopping_criteria(input_ids, records.get("scores"))
            is_done = not unfinished.any()
            outputs = None
        if streamer is not None:
            streamer.end()
        return MiMoAudioGenerateOutput(
            sequences=input_ids,
            audio_codes=audio_codes,
            **records,
            **cache_argument(cache_of(model_kwargs)),
        )

    def _decode_audio(self, output: MiMoAudioGenerateOutput, start: int, audio_tokenizer: Any) -> list[torch.Tensor]:
        audio: list[torch.Tensor] = []
        for ids, codes in zip(
            output.sequences[:, start:], cast(torch.Tensor, output.audio_codes)[:, start:], strict=True
        ):
            _, frames = parse_interleaved(ids, codes, self.config)
            if len(frames) == 0:
                logger.warning(f"Row {len(audio)} has no new speech; its audio is empty.")
                audio.append(torch.zeros(0, device=codes.device))
            else:
                audio.append(audio_tokenizer.decode(frames.T[None]).audio_values[0, 0])
        return audio


def _preset(stops: list[int], temperature: float = 0.0, top_p: float = 0.95, top_k: int = 0) -> dict[str, Any]:
    text: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        text = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    return {**text, **AUDIO_SAMPLER, "eos_token_id": stops}


def _check_audio_options(given: GenerationConfig):
    temperature, top_k, top_p = (getattr(given, name) for name in AUDIO_DEFAULTS)
    if not temperature > 0:
        raise ValueError(
            f"`audio_temperature` must be more than 0; got {temperature}. Use `audio_do_sample=False` for the likeliest codes."
        )
    if int(top_k) != top_k or top_k < 0:
        raise ValueError(f"`audio_top_k` must be a whole number of at least 0; got {top_k}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"`audio_top_p` must be more than 0 and at most 1; got {top_p}.")


def _audio_sampler(given: GenerationConfig) -> Sampler:
    """Temperature, then top-k, then top-p, then a draw; or the likeliest code."""
    does_sample, temperature, top_k, top_p = (getattr(given, name) for name in AUDIO_OPTIONS)
    if not (given.do_sample if does_sample is None else does_sample):
        return lambda logits: logits.argmax(dim=-1)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
    if top_k > 0:
        warpers.append(TopKLogitsWarper(int(top_k)))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(float(top_p)))
    return lambda logits: _draw(warpers(cast(Any, None), cast(Any, logits)))


def _draw(scores: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)


__all__ = ["MiMoAudioGenerateOutput", "MiMoAudioGenerationMixin", "Sampler"]
