"""Processor of MiMo-Audio: conversations of text and audio to what the model reads, and what it writes to text and audio."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, cast

import numpy as np
import torch
from transformers import BatchFeature
from transformers.utils.chat_template_utils import render_jinja_template

from .audio_clips import Clip, as_clip, named_clips
from .configuration_mimo_audio import SPECIAL_TOKENS, MiMoAudioConfig
from .few_shot_prompts import few_shot_text
from .processing_codec import CodecProcessor
from .prompt_rows import Row, Span, build_row, count_places
from .prompts import CHAT_TEMPLATE, SPEAKING, THINKING, collect_clips, task_messages
from .responses import Response, opens_thought, parse_new_positions, split_thinking, without_markers

AUDIO_TOKENS = (
    "<|sosp|>", "<|eosp|>", "<|empty|>", "<|Human|>", "<|SpeechLM|>", "<|sostm|>", "<|eostm|>", "<|eot|>",
)  # fmt: skip


class MiMoAudioProcessor(CodecProcessor):
    r"""
    Feature extractor, tokenizer and codec of MiMo-Audio (arXiv 2512.23808) in one.

    ```python
    processor = MiMoAudioProcessor(MiMoAudioFeatureExtractor(), tokenizer, codec)
    chat = [{"role": "user", "content": [{"type": "audio", "path": "question.wav"}]}]
    inputs = processor.apply_chat_template(chat, task="spoken_dialogue", add_generation_prompt=True)
    output = model.generate(**inputs, **model.generation_presets["spoken_dialogue"])
    (answer,) = processor.parse_response(output)
    processor.save_audio(processor.decode_audio(answer["audio_codes"]), "answer.wav")
    ```

    Args:
        feature_extractor ([`MiMoAudioFeatureExtractor`]): makes log-mel frames of waveforms for the codec.
        tokenizer: the text's; audio tokens that it lacks are added to it, in the order of the official code.
        audio_tokenizer ([`MiMoAudioTokenizerModel`], *optional*): the codec. Without it audio goes in and out as codes.
        chat_template (`str`, *optional*): a Jinja template of `messages`, `add_generation_prompt`, `thinking` and `speech`; None: ChatML
            as the official code writes it.
        group_size, audio_channels (`int`, default to 4 and 8): G frames a patch and C codes a frame, as in the model's configuration.
        speech_vocab_size (defaults to `"1025-1025-129-129-129-129-129-129"`): K_c + 1 of each channel, likewise.
        max_length (`int`, defaults to 8192): positions of the model's context; longer prompts are refused.

    Raises:
        TypeError: a codec or tokenizer of another class. ValueError: a tokenizer without ChatML's tokens, or a codec with fewer
            codebooks than `audio_channels`.
    """

    def __init__(
        self,
        feature_extractor,
        tokenizer,
        audio_tokenizer=None,
        chat_template=None,
        group_size: int = 4,
        audio_channels: int = 8,
        speech_vocab_size: str | int | list[int] = "1025-1025-129-129-129-129-129-129",
        max_length: int = 8192,
    ):
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.group_size = group_size
        self.audio_channels = audio_channels
        self.speech_vocab_size = speech_vocab_size
        self.max_length = max_length
        known = tokenizer.get_vocab()
        chat_tokens = [token for token in ("<|im_start|>", "<|im_end|>") if token not in known]
        if chat_tokens:
            raise ValueError(f"`tokenizer` must have {' and '.join(chat_tokens)}, as MiMo's has; got one without.")
        missing = [token for token in AUDIO_TOKENS if token not in known]
        if missing:
            tokenizer.add_tokens(missing, special_tokens=True)
        self._layout = self._make_layout()
        # Not through ProcessorMixin, which knows three codecs by name and refuses all others.
        if audio_tokenizer is not None:
            self.audio_tokenizer = self.check_codec(audio_tokenizer)

    @property
    def token_ids(self) -> dict[str, int]:
        """The ids of `MiMoAudioConfig`'s fields in this tokenizer: `MiMoAudioConfig(**processor.token_ids, ...)`."""
        ids = {name: self.tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
        if SPECIAL_TOKENS["eos_token_id"] not in self.tokenizer.get_vocab():
            ids["eos_token_id"] = self.tokenizer.eos_token_id
        return {name: int(token) for name, token in ids.items() if token is not None}

    @property
    def model_input_names(self) -> list[str]:
        """What `MiMoAudioForConditionalGeneration` takes of it."""
        return ["input_ids", "audio_codes", "attention_mask"]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        *,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        padding_side: str = "left",
        return_tensors: str | None = None,
        images: None = None,
        videos: None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Rendered prompts and their clips.

        Args:
            text: a prompt or several. `<|sosp|><|empty|><|eosp|>` is the place of a clip, `<|sostm|>...<|empty|><|eostm|>` that of speech
                interleaved with its text.
            audio: the clips in the order of their places, of all prompts in one list, or a list for each prompt. A clip is a path, a
                waveform (floats `[samples]` at `sampling_rate`, one channel) or codes (whole numbers `[frames, C]`, whole patches).
            sampling_rate: samples a second of waveforms; None: they are taken for 24000 Hz.
            padding: whether rows of several lengths are padded to the longest.
            padding_side: `"left"` to generate.
            return_tensors: `"pt"`, `"np"`, or None for lists.

        Returns:
            `input_ids` `[B, T]`, `audio_codes` `[B, T, G, C]` and `attention_mask` `[B, T]`.

        Raises:
            ValueError: no text, other numbers of places and clips, a prompt longer than `max_length`, waveforms without a codec, and what is
                wrong with a clip: another rate, more channels, no samples, samples that are not finite, codes that fill no whole patch or
                that there are not. FileNotFoundError: a path without a file.
        """
        if text is None:
            raise ValueError("`text` must be given: a prompt with '<|sosp|><|empty|><|eosp|>' where a clip stands.")
        if images is not None or videos is not None:
            raise ValueError("`images` and `videos` must not be given: MiMo-Audio reads text and audio.")
        _refuse_unknown(kwargs)
        texts = [text] if isinstance(text, str) else list(text)
        places = [count_places(one) for one in texts]
        clips = [
            as_clip(given, name, self.sampling_rate, sampling_rate, self._most_seconds)
            for name, given in named_clips(audio, places)
        ]
        rows = self._rows(texts, clips, [()] * len(texts))
        return self._batch(rows, False, padding, padding_side, return_tensors)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        *,
        task: str | None = None,
        thinking: bool = False,
        template: str | None = None,
        rng: Random | None = None,
        capitalize: bool = False,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        output_labels: bool = False,
        tokenize: bool = True,
        return_dict: bool = True,
        return_tensors: str | None = "pt",
        sampling_rate: int | None = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Conversations as the model reads them.

        Args:
            conversation: messages, or a list of conversations. A content is a text or a list of parts: `{"type": "text", "text": ...}`, and
                `{"type": "audio"}` with `path` (a file of any rate), `array` (floats `[samples]`, with `sampling_rate`) or `codes` (whole
                numbers `[frames, C]`). What an assistant's message says and how it sounds are interleaved. A user's message may have
                `instruct` (the style, for `instruct_tts`), an assistant's last one `thinking`.
            task: `asr`, `understanding`, `text_chat`, `speech_to_text_dialogue`, `tts`, `instruct_tts` or `spoken_dialogue`: the wording and
                the beginning of the answer. None: no wording, an answer in text.
            thinking: the answer begins with thoughts; for tasks that answer in text, except `asr`. `instruct_tts` always does.
            template, rng, capitalize: see `task_messages`: the sentence that asks.
            add_generation_prompt: whether the turn to be written begins; None: unless the last message is the assistant's.
            continue_final_message: leave the assistant's last message, a text, open.
            output_labels: add `labels` and `audio_labels` for training: the assistant's turns, -100 elsewhere. Of turns in text that is the
                last one, since only that stands where a generated one does; turns in speech are all learned.
            tokenize: False: the rendered prompts, with a place for each clip.
            return_dict: False: `input_ids` alone, for conversations without audio.
            return_tensors: `"pt"`, `"np"`, or None for lists.
            padding_side: None: `"left"`, or `"right"` with `output_labels`.
            processor_kwargs: further arguments of this kind, as pipelines pass them.
            sampling_rate, padding: as in a call.

        Returns:
            `input_ids` `[B, T]`, `audio_codes` `[B, T, G, C]`, `attention_mask` `[B, T]`, and with `output_labels` `labels` `[B, T]` and
            `audio_labels` `[B, T, G, C]`. A single conversation is a batch of one.

        Raises:
            ValueError: as a call, and a task or conversation that does not fit.
        """
        options: dict[str, Any] = {"sampling_rate": sampling_rate, "padding": padding, "padding_side": padding_side}
        options |= {"return_tensors": return_tensors} | (processor_kwargs or {})
        _refuse_unknown({name: options.pop(name) for name in list(options) if name not in _OPTIONS} | kwargs)
        is_batched = len(conversation) > 0 and not isinstance(conversation[0], Mapping)
        conversations = cast(Any, conversation if is_batched else [conversation])
        chats = [task_messages(chat, task, template, rng, capitalize) for chat in conversations]
        self._check_turns(chats, task, thinking, add_generation_prompt, continue_final_message, output_labels)
        writes = add_generation_prompt
        if writes is None:
            writes = all(chat[-1]["role"] != "assistant" for chat in chats)
        texts, spans = render_jinja_template(
            conversations=[_for_template(chat) for chat in chats],
            chat_template=chat_template or cast(str, self.chat_template),
            return_assistant_tokens_mask=output_labels,
            add_generation_prompt=writes,
            thinking=thinking or task == "instruct_tts",
            speech=task in SPEAKING,
        )
        if continue_final_message:
            texts = [one.removesuffix("\n").removesuffix("<|im_end|>") for one in texts]
        if not tokenize:
            return texts if is_batched else texts[0]
        clips = [
            as_clip(part, f"audio[{number}]", self.sampling_rate, options["sampling_rate"], self._most_seconds)
            for number, part in enumerate(part for chat in chats for part in collect_clips(chat))
        ]
        rows = self._rows(texts, clips, spans if output_labels else [()] * len(texts))
        side = options["padding_side"] or ("right" if output_labels else "left")
        batch = self._batch(rows, output_labels, options["padding"], side, options["return_tensors"])
        if return_dict:
            return batch
        if clips:
            raise ValueError(
                "`return_dict` must be True for conversations with audio, whose codes are beside the ids; got False."
            )
        return batch["input_ids"]

    def few_shot(
        self,
        instruction: str,
        examples: Sequence[Any],
        query: Any,
        *,
        tokenize: bool = True,
        return_tensors: str | None = "pt",
        sampling_rate: int | None = None,
    ) -> Any:
        """
        A prompt that shows a task to the pretrained model (arXiv 2512.23808, section 3.3), without any chat.

        Args:
            instruction: what there is to do.
            examples: each `{"input": clip, "transcript": text, "output": clip}` or such a triple, speech to speech; or `{"question": text or
                clip, "answer": text}`. All of one kind.
            query: the last input or question, or a list of such for a batch. A clip is `{"path": ...}`, `{"array": ...}` or `{"codes": ...}`; a
                bare array is one too.
            tokenize, return_tensors, sampling_rate: as in `apply_chat_template`.

        Returns:
            As a call: prompts that end where the answer begins, with `<|sostm|>` or `Answer:`.

        Raises:
            ValueError: examples of two kinds or without their parts, and as a call.
        """
        queries = list(query) if isinstance(query, list) else [query]
        if not queries:
            raise ValueError("`query` must have at least one input; got an empty list.")
        made = [few_shot_text(instruction, examples, one) for one in queries]
        texts = [text for text, _ in made]
        if not tokenize:
            return texts if isinstance(query, list) else texts[0]
        clips = [
            as_clip(given, name, self.sampling_rate, sampling_rate, self._most_seconds)
            for _, found in made
            for name, given in found
        ]
        rows = self._rows(texts, clips, [()] * len(texts))
        return self._batch(rows, False, True, "left", return_tensors)

    def decode(self, token_ids: Any, skip_special_tokens: bool = True, **kwargs: Any) -> Any:
        """The text of ids `[T]`, or of each row of `[B, T]`; without special tokens that includes the marks of audio."""
        token_ids = token_ids.tolist() if isinstance(token_ids, np.ndarray | torch.Tensor) else token_ids
        if isinstance(token_ids, list | tuple) and len(token_ids) > 0 and not isinstance(token_ids[0], int):
            return self.batch_decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)
        if skip_special_tokens:
            token_ids = without_markers(token_ids, self._layout)
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = True, **kwargs: Any) -> list[str]:
        """`decode` of each row."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens, **kwargs) for row in sequences]

    def parse_response(
        self,
        response: Any,
        schema: None = None,
        *,
        audio_codes: torch.Tensor | None = None,
        prefix: Any = None,
        tools: None = None,
    ) -> Any:
        """
        What the model has written, taken apart.

        Args:
            response: the output of `generate`; or its new ids, `[T]` or `[B, T]`; or text.
            audio_codes: `[T, G, C]` or `[B, T, G, C]` of new ids.
            prefix: the prompt of new ids or text, as text, if it has begun the thoughts; the output of `generate` knows its own.
            schema, tools: not used.

        Returns:
            `{"thinking": text or None, "text": text, "audio_codes": [frames, C] or None}`, for a batch a list of such.
        """
        if isinstance(response, str):
            thinking, text = split_thinking(response, opened=opens_thought(prefix))
            return {"thinking": thinking, "text": text, "audio_codes": None}
        if isinstance(response, Mapping):
            return [self._parsed(row) for row in self._responses(response)]
        ids = torch.as_tensor(response)
        if ids.ndim == 2:
            codes = [None] * len(ids) if audio_codes is None else list(audio_codes)
            return [
                self.parse_response(row, audio_codes=code, prefix=prefix) for row, code in zip(ids, codes, strict=True)
            ]
        return self._parsed(Response(ids, audio_codes, opens_thought(prefix)))

    def post_process_multimodal_output(
        self,
        generated_outputs: Any,
        skip_special_tokens: bool = True,
        generation_mode: str | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """
        What pipelines give out.

        Args:
            generated_outputs: of `generate`; ids alone for text.
            generation_mode: `"text"` (None too) or `"audio"`.

        Returns:
            Of each row the text, prompt included; or the new speech, float32 `[samples]` NumPy arrays at 24 kHz.

        Raises:
            ValueError: another mode, or audio without a codec or without codes.
        """
        if generation_mode not in (None, "text", "audio"):
            raise ValueError(f"`generation_mode` must be 'text' or 'audio'; got {generation_mode!r}.")
        if generation_mode == "audio":
            if not isinstance(generated_outputs, Mapping):
                raise ValueError(
                    "`generated_outputs` must be the whole output of `generate`, with `audio_codes`, for audio; got "
                    f"{type(generated_outputs).__name__}."
                )
            parsed = self.parse_response(generated_outputs)
            return [self.decode_audio(row["audio_codes"]).numpy() for row in parsed]
        sequences = generated_outputs["sequences"] if isinstance(generated_outputs, Mapping) else generated_outputs
        return self.batch_decode(sequences, skip_special_tokens=skip_special_tokens)

    @property
    def _most_seconds(self) -> float:
        return self.max_length * self.group_size * 0.04

    def _make_layout(self) -> MiMoAudioConfig:
        ids = self.token_ids
        parts = self.speech_vocab_size
        numbers = [int(part) for part in parts.split("-")] if isinstance(parts, str) else parts
        numbers = [numbers] if isinstance(numbers, int) else list(numbers)
        return MiMoAudioConfig(
            vocab_size=max(len(self.tokenizer), *ids.values()) + 1,
            group_size=self.group_size,
            audio_channels=self.audio_channels,
            speech_vocab_size=numbers,
            speech_zeroemb_idx=[number - 1 for number in numbers],
            delay_pattern=0,
            audio_loss_weights=[1.0] * self.audio_channels,
            **cast(Any, ids),
        )

    def _rows(self, texts: Sequence[str], clips: Sequence[Clip], targets: Sequence[Sequence[Span]]) -> list[Row]:
        places = [count_places(text) for text in texts]
        if sum(places) != len(clips):
            raise ValueError(
                f"`audio` must have a clip for each of the {sum(places)} places in `text`; got {len(clips)}."
            )
        waiting = iter(self._codes(clips))
        rows: list[Row] = []
        for text, number, spans in zip(texts, places, targets, strict=True):
            row = build_row(text, [next(waiting) for _ in range(number)], spans, self.tokenizer, self._layout)
            self._check_length(len(row.input_ids), len(rows))
            rows.append(row)
        return rows

    def _check_turns(
        self,
        chats: Sequence[Any],
        task: str | None,
        thinking: bool,
        writes: bool | None,
        continues: bool,
        labels: bool,
    ):
        if thinking and task is not None and task not in (*THINKING, "instruct_tts"):
            raise ValueError(
                f"`thinking` must be False for task {task!r}, whose answers begin without thoughts; got True."
            )
        for chat in chats:
            ends = chat[-1]["role"] == "assistant"
            if continues and (not ends or writes or collect_clips(chat[-1:])):
                raise ValueError(
                    "`continue_final_message` must go with a last message of the assistant, in text, and without "
                    "`add_generation_prompt`."
                )
            if labels and (not ends or writes or continues):
                raise ValueError(
                    "`output_labels` must go with conversations that end with a message of the assistant, which is what there is to "
                    f"learn; got one that ends with {chat[-1]['role']}, or `add_generation_prompt=True`."
                )
        if writes is None and len({chat[-1]["role"] == "assistant" for chat in chats}) > 1:
            raise ValueError(
                "`add_generation_prompt` must be given for conversations of which only some end with the assistant."
            )

    def _responses(self, output: Mapping[str, Any]) -> list[Response]:
        start = output.get("prompt_length") or 0
        codes = output.get("audio_codes")
        rows: list[Response] = []
        for row, ids in enumerate(output["sequences"]):
            prompt = self.tokenizer.decode(ids[:start][-16:].tolist())
            rows.append(Response(ids[start:], None if codes is None else codes[row, start:], opens_thought(prompt)))
        return rows

    def _parsed(self, response: Response) -> dict[str, Any]:
        return parse_new_positions(response, self.tokenizer, self._layout)


_OPTIONS = ("sampling_rate", "padding", "padding_side", "return_tensors")


def _refuse_unknown(kwargs: Mapping[str, Any]):
    harmless = {name: value for name, value in kwargs.items() if value is None or value is False}
    unknown = [name for name in kwargs if name not in harmless]
    if unknown:
        raise ValueError(
            f"`{unknown[0]}` must not be given to MiMoAudioProcessor, which would ignore it; got {kwargs[unknown[0]]!r}."
        )


def _for_template(chat: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Without samples and codes, which a template does not need."""
    return [
        {**message, "content": [part if part["type"] == "text" else {"type": "audio"} for part in message["content"]]}
        for message in chat
    ]


__all__ = ["AUDIO_TOKENS", "MiMoAudioProcessor"]
