"""
A tiny MiMo-Audio, trained from nothing to write down numbers that are said, to read numbers aloud, and to go on speaking.

    apt-get install asterisk-core-sounds-en-g722 espeak-ng
    python examples/train_mimo_audio_codec.py --output_dir outputs/codec --numbers 400 --max_steps 2400 --use_cpu
    python examples/pretrain_mimo_audio.py --use_cpu

The checkpoint in `mimo_hf/hub/tiny/mimo-audio/` is what these two commands wrote, each some minutes on a CPU core. A first look that takes
seconds, with a codec of any quality:

    python examples/pretrain_mimo_audio.py --codec outputs/codec --numbers 40 --first_steps 3 --max_steps 3 --test 4 --output_dir outputs/first-look

It learns from a synthesiser's voices and from a telephone exchange's prompts, in the two stages of arXiv 2512.23808, section 3.2: first to transcribe,
with text losses and a frozen patch decoder, then all tasks with all losses. 8 codebooks in patches of 4 frames, prompts as the processor words them.
"""

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from train_mimo_audio_codec import HELD_OUT, errors, held_out_crops, samples_of
from transformers import (
    HfArgumentParser,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from mimo_hf.data import asterisk_prompts, number_sentences, spoken_numbers
from mimo_hf.data.speech import ASTERISK
from mimo_hf.data.spoken_numbers import UNHEARD, VOICES
from mimo_hf.hub.checkpoints import RUN
from mimo_hf.hub.training_run import run_facts
from mimo_hf.metrics.transcription import WordErrorRate
from mimo_hf.modeling.mimo_audio import (
    MiMoAudioConfig,
    MiMoAudioDataCollator,
    MiMoAudioFeatureExtractor,
    MiMoAudioForConditionalGeneration,
    MiMoAudioProcessor,
    MiMoAudioTokenizerModel,
    layout_audio,
    set_training_stage,
)
from mimo_hf.modeling.mimo_audio.prompt_rows import Row, labels_of

END = "<|endoftext|>"
CHAT = ("<|im_start|>", "<|im_end|>")
LONGEST_S = 10
GONE_ON_WITH = 4  # one clip of so many
HEARD_FIRST = 5  # patches of a clip (0.8 s) that a continuation is given


@dataclass
class ScriptArguments:
    codec: str = field(
        default="outputs/codec", metadata={"help": "Folder that train_mimo_audio_codec.py has written."}
    )
    recordings: str = field(default=str(ASTERISK), metadata={"help": "Folder of Asterisk's .g722 prompts."})
    numbers: int = field(default=5000, metadata={"help": "Sentences of numbers, read by espeak-ng, to learn from."})
    first_steps: int = field(
        default=1000,
        metadata={
            "help": "Steps of the first stage, twice as many rows each: the tasks at once never learned to listen."
        },
    )
    audio_weight: float = field(
        default=12.0, metadata={"help": "Of all audio losses, times the released weights, in the second stage."}
    )
    vocab_size: int = field(default=448, metadata={"help": "Tokens: 256 bytes and the merges of the texts."})
    test: int = field(default=100, metadata={"help": "Clips of each kind that are measured."})


@dataclass
class AudioTrainingArguments(TrainingArguments):
    output_dir: str = field(default="outputs/mimo-audio", metadata={"help": "Where the model is written."})
    max_steps: int = field(default=4000, metadata={"help": "Steps of the second stage."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rows of a step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "How the rate falls."})
    warmup_steps: float = field(default=150, metadata={"help": "Steps in which it rises."})
    adam_beta2: float = field(default=0.98, metadata={"help": "AdamW's second."})
    weight_decay: float = field(default=0.02, metadata={"help": "AdamW's."})
    logging_steps: float = field(default=50, metadata={"help": "Steps from one line of the log to the next."})
    report_to: str = field(default="none", metadata={"help": "Where the log goes beside the terminal."})
    save_strategy: str = field(default="no", metadata={"help": "The model is written at the end."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs them all."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Rows of like length share a step."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of everything."})


def small_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Bytes and what often stands together in the texts: a word is a token or two."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END, *CHAT])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=END, eos_token=END)


def small_config(processor: MiMoAudioProcessor) -> MiMoAudioConfig:
    """The released one's plan, narrow and shallow."""
    return MiMoAudioConfig(
        vocab_size=len(processor.tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=processor.max_length, tie_word_embeddings=False,
        speech_vocab_size=processor.speech_vocab_size, speech_zeroemb_idx=[size - 1 for size in processor.speech_vocab_size],
        local_dim=96, local_layers=2, local_attn_heads=4, local_ffn_dim=256, local_attn_dropout=0.0, input_local_layers=1,
        initializer_range=0.07,  # 1 / sqrt(width): with the released 0.02, made for wide models, it never learned to listen
        empty_loss_weight=1.0,  # with the released 0.01 a model this unsure of how long it speaks stops early
        **processor.token_ids,
    )  # fmt: skip


def conversation(task: str, text: str, codes: torch.Tensor) -> list[dict]:
    speech, words = {"type": "audio", "codes": codes}, {"type": "text", "text": text}
    said = [speech] if task == "asr" else [words]
    answer = [words] if task == "asr" else [words, speech]
    return [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]


def lessons(processor: MiMoAudioProcessor, texts: list[str], codes: list[torch.Tensor]) -> dict[str, list[dict]]:
    """By task: each clip is transcribed and read aloud, every fourth is gone on with."""
    config = small_config(processor)
    rows: dict[str, list[dict]] = {"asr": [], "tts": [], "continuation": []}
    for number, (text, clip) in enumerate(zip(texts, codes, strict=True)):
        for task in ("asr", "tts"):
            row = processor.apply_chat_template(conversation(task, text, clip), task=task, output_labels=True)
            rows[task].append({name: values[0] for name, values in row.items()})
        if number % GONE_ON_WITH == 0:
            ids, patches = layout_audio(clip, config)
            labels = labels_of(Row(ids, patches, torch.arange(len(ids)) > HEARD_FIRST), config)
            rows["continuation"].append({"input_ids": ids, "audio_codes": patches} | labels)
    return rows


def train(
    model,
    processor: MiMoAudioProcessor,
    rows: dict[str, list[dict]],
    options: ScriptArguments,
    arguments: AudioTrainingArguments,
) -> list[dict]:
    """Both stages; the losses on the way."""
    weights = [options.audio_weight * weight for weight in model.config.audio_loss_weights]
    first = copy.copy(arguments)
    first.max_steps, first.per_device_train_batch_size = options.first_steps, 2 * arguments.per_device_train_batch_size
    history = []
    for stage, own, lesson in (
        (1, first, rows["asr"]),
        (2, arguments, [row for task in rows.values() for row in task]),
    ):
        set_training_stage(model, stage, weights)
        trainer = Trainer(model, own, data_collator=MiMoAudioDataCollator(processor), train_dataset=lesson)
        trainer.train()
        history += [
            {"stage": stage, "step": entry["step"], "loss": entry["loss"]}
            for entry in trainer.state.log_history
            if "loss" in entry
        ]
    return history


def codes_of(processor: MiMoAudioProcessor, speech: Dataset) -> list[torch.Tensor]:
    clips = samples_of(speech)
    order = sorted(range(len(clips)), key=lambda number: len(clips[number]))
    found: dict[int, torch.Tensor] = {}
    for first in range(0, len(order), 32):
        batch = order[first : first + 32]
        found |= dict(zip(batch, processor.encode_audio([clips[number] for number in batch]), strict=True))
    return [found[number] for number in range(len(clips))]


@torch.no_grad()
def transcriptions(model, processor: MiMoAudioProcessor, codes: list[torch.Tensor]) -> list[str]:
    chats = [[{"role": "user", "content": [{"type": "audio", "codes": clip}]}] for clip in codes]
    return [row["text"] for row in answers(model, processor, chats, "asr")]


@torch.no_grad()
def answers(model, processor: MiMoAudioProcessor, chats: list[list[dict]], task: str) -> list[dict]:
    found = []
    for first in range(0, len(chats), 25):
        inputs = processor.apply_chat_template(chats[first : first + 25], task=task).to(model.device)
        output = model.generate(**inputs, **model.generation_presets[task], max_new_tokens=120)
        found += processor.parse_response(output)
    return found


def heard_again(model, processor: MiMoAudioProcessor, sentences: list[str], seed: int) -> dict[str, float]:
    """What the model reads aloud, written down by itself: the word error rate, and the share of sentences that were heard whole."""
    torch.manual_seed(seed)
    chats = [[{"role": "user", "content": sentence}] for sentence in sentences]
    spoken = [row["audio_codes"] for row in answers(model, processor, chats, "tts")]
    codes = [clip[: len(clip) // processor.group_size * processor.group_size] for clip in spoken]
    codes = [
        clip if len(clip) else torch.zeros(processor.group_size, processor.audio_channels, dtype=torch.long)
        for clip in codes
    ]
    return word_errors(transcriptions(model, processor, codes), sentences)


def word_errors(heard: list[str], said: list[str]) -> dict[str, float]:
    """Word by word as they are written: spelt alike, "sixty one forty eight" would be the one number 6148."""
    rate = WordErrorRate().compute(predictions=heard, references=said, normalize=False)["word_error_rate"]
    return {
        "word_error_rate": round(rate, 4),
        "right_sentences": sum(a == b for a, b in zip(heard, said, strict=True)) / len(said),
    }


def split(prompts: Dataset) -> tuple[Dataset, Dataset]:
    """Prompts of ten seconds at most, to learn from and held out: those that the codec has learned from, and those that it has not."""
    short = [
        number
        for number, audio in enumerate(prompts["audio"])
        if len(audio["array"]) <= LONGEST_S * audio["sampling_rate"]
    ]
    known = [number for number in short if number % HELD_OUT]
    return prompts.select(known), prompts.select([number for number in short if number % HELD_OUT == 0])


CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: any-to-any
tags: [mimo, audio, speech, tiny]
---

# MiMo-Audio, tiny

A MiMo-Audio ([arXiv 2512.23808](https://arxiv.org/abs/2512.23808)) with {parameters:,} parameters and its codec (in `audio_tokenizer/`, {codec_parameters:,}),
both trained from nothing on {minutes:.0f} minutes of speech. It writes down numbers that are said, and reads numbers aloud so that some of the words can
be made out, in six voices of a synthesiser. It is for demos and tests: it knows no other words, and has hardly learned the telephone prompts that were
among its lessons. It is not a model of Xiaomi's, and neither is its codec.

```python
import mimo_hf
from mimo_hf.hub.checkpoints import bundled
from transformers import AutoModelForMultimodalLM, AutoProcessor

mimo_hf.register()
model = AutoModelForMultimodalLM.from_pretrained(bundled("mimo-audio"))
processor = AutoProcessor.from_pretrained(bundled("mimo-audio"))
chat = [{{"role": "user", "content": "forty two seven"}}]
inputs = processor.apply_chat_template(chat, task="tts")
(spoken,) = processor.parse_response(model.generate(**inputs, **model.generation_presets["tts"], max_new_tokens=60))
processor.save_audio(processor.decode_audio(spoken["audio_codes"]), "spoken.wav")
chat = [{{"role": "user", "content": [{{"type": "audio", "path": "spoken.wav"}}]}}]
inputs = processor.apply_chat_template(chat, task="asr")
(heard,) = processor.parse_response(model.generate(**inputs, **model.generation_presets["asr"], max_new_tokens=60))
print(heard["text"])
```

## How it was made

    {codec_command}
    {command}

on {device} with Python {python}, torch {torch}, transformers {transformers}: {codec_steps} steps for the codec; {first_steps} of
transcribing alone, the report's first stage, and {steps} of everything for the rest. Each of {clips:,} clips is transcribed and read aloud,
every fourth is gone on with after its first 0.8 s. Weights are kept in bfloat16, codebooks in float32.

The recordings are `asterisk-core-sounds-en-g722` (Allison Smith, Digium; CC-BY-SA-3.0), every tenth held out, and those over ten seconds left to the codec
alone; the numbers are read by espeak-ng, voices {heard}.

## Measured

On the saved weights, computed in float32, greedy; all numbers are from `training_run.json`. "Never heard" are voices ({never_heard}) or recordings
that no training saw; test sentences of numbers are none of the training's.

| transcribed | word error rate | sentences without an error |
|---|---|---|
{transcribed}

Sentences that it read aloud, sampled, and wrote down itself: word error rate {again_rate:.1%}, without an error {again_right:.1%}. What others hear is
measured by `benchmarks/mimo_audio_codec.py`.

The codec on recordings that were held out: the mean error of mel magnitudes, and of their logarithms, by the number of codebooks.

| codebooks | magnitudes | logarithms |
|---|---|---|
{codebooks}

## Limits

One narrow task, six synthetic voices and one recorded, 8 kHz of bandwidth: nothing here speaks of the released model. What it reads aloud is not a
synthesiser's: see the table. `empty_loss_weight` is 1 here, not 0.01: a model this unsure of how long it speaks stops early otherwise; audio losses weigh
{audio_weight:g} times the released ones; `initializer_range` is one over the root of the width.
"""


def card(run: dict) -> str:
    """The model card; every number in it is in `run`."""
    codec, again = run["codec"], run["read_aloud_and_transcribed_by_itself"]
    return CARD.format(
        codec_parameters=codec["parameters"],
        codec_command=codec["command"],
        codec_steps=codec["steps"],
        **run["versions"],
        **{name: run[name] for name in ("parameters", "minutes", "command", "device", "steps", "clips")},
        first_steps=run["arguments"]["first_steps"],
        audio_weight=run["arguments"]["audio_weight"],
        heard=", ".join(run["voices"]["heard"]),
        never_heard=", ".join(run["voices"]["never heard"]),
        transcribed="\n".join(
            f"| {name} | {found['word_error_rate']:.1%} | {found['right_sentences']:.1%} |"
            for name, found in run["transcribed"].items()
        ),
        again_rate=again["word_error_rate"],
        again_right=again["right_sentences"],
        codebooks="\n".join(
            f"| {number if int(number) else 'silence'} | {magnitude:.4f} | {logarithm:.3f} |"
            for number, (magnitude, logarithm) in codec["errors"].items()
        ),
    )


def main(options: ScriptArguments, arguments: AudioTrainingArguments) -> None:
    set_seed(arguments.seed)
    folder = Path(arguments.output_dir)
    codec = (
        MiMoAudioTokenizerModel.from_pretrained(options.codec).to(torch.bfloat16).float().eval()
    )  # as it is written
    prompts, unheard_prompts = split(asterisk_prompts(options.recordings))
    numbers = spoken_numbers("train", options.numbers, seed=arguments.seed)
    texts = [*prompts["text"], *numbers["text"]]
    wording = [
        "user\n",
        "assistant\n<think>\n\n</think>\n",
        "Please transcribe this audio file",
        "Please convert this text to speech: ",
    ]
    processor = MiMoAudioProcessor(
        MiMoAudioFeatureExtractor.from_pretrained(options.codec), small_tokenizer(texts + wording * 50, options.vocab_size), codec,
        speech_vocab_size=[size + 1 for size in codec.config.codebook_sizes[:8]], max_length=1024,
    )  # fmt: skip
    codes = [*codes_of(processor, prompts), *codes_of(processor, numbers)]
    model = MiMoAudioForConditionalGeneration(small_config(processor))
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(codes)} clips, {sum(map(len, codes)) * 0.04 / 60:.1f} minutes; {weights:,} weights", flush=True)
    rows = lessons(processor, texts, codes)
    history = train(model, processor, rows, options, arguments)

    model.to(torch.bfloat16).save_pretrained(folder)
    codec.to(torch.bfloat16)
    processor.save_pretrained(folder, save_audio_tokenizer=True)
    codec.float()
    model = MiMoAudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    test = options.test
    tests = {
        "numbers, voices of the training": spoken_numbers("test", test, seed=1),
        "numbers, voices never heard": spoken_numbers("test", test, voices=UNHEARD, seed=2),
        "prompts of the training": prompts.select(range(min(test, len(prompts)))),
        "prompts never heard": unheard_prompts.select(range(min(test, len(unheard_prompts)))),
    }
    found = {
        name: word_errors(transcriptions(model, processor, codes_of(processor, speech)), speech["text"])
        for name, speech in tests.items()
    }
    sentences = number_sentences("test", test, seed=3)
    run = {
        **run_facts("examples/pretrain_mimo_audio.py", arguments.seed, model.device.type),
        "arguments": {name: value for name, value in asdict(options).items() if name not in ("codec", "recordings")},
        "steps": arguments.max_steps,
        "clips": len(codes),
        "rows": {task: len(own) for task, own in rows.items()},
        "minutes": round(sum(map(len, codes)) * 0.04 / 60, 1),
        "parameters": weights,
        "codec": json.loads(Path(options.codec, RUN).read_text(encoding="utf-8"))
        | {
            "parameters": sum(parameter.numel() for parameter in codec.parameters()),
            "errors": {
                str(number): pair for number, pair in errors(codec, held_out_crops(options.recordings, test)).items()
            },
        },
        "voices": {"heard": VOICES, "never heard": UNHEARD},
        "transcribed": found,
        "read_aloud_and_transcribed_by_itself": heard_again(model, processor, sentences, arguments.seed),
        "history": history,
    }
    (folder / RUN).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(run), encoding="utf-8")
    print(json.dumps({name: run[name] for name in ("transcribed", "read_aloud_and_transcribed_by_itself")}, indent=1))


if __name__ == "__main__":
    main(*HfArgumentParser((ScriptArguments, AudioTrainingArguments)).parse_args_into_dataclasses())
