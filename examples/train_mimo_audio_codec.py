"""
A small speech codec of MiMo-Audio's kind, trained from nothing on recorded telephone prompts (arXiv 2512.23808, section 2.1.2).

    apt-get install asterisk-core-sounds-en-g722
    python examples/train_mimo_audio_codec.py --output_dir outputs/codec         # some minutes on a CPU
    python examples/train_mimo_audio_codec.py --output_dir outputs/codec --quick   # a few steps, to see that it runs

The loss is the report's reconstruction and commitment; its third term needs a language model, its second stage discriminators, neither
published. Logarithmic mel frames join with `--log_mel_weight`, since magnitudes alone forgive what is quiet. Printed is the error on
recordings that training never saw, by the number of codebooks that are used, before and after. The folder that is written loads with
`AutoModelForAudioTokenization.from_pretrained` once mimo_hf is registered, and its feature extractor with it.
"""

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

from mimo_hf.data import asterisk_prompts, spoken_numbers
from mimo_hf.data.speech import ASTERISK
from mimo_hf.hub.checkpoints import RUN
from mimo_hf.modeling.mimo_audio import (
    MiMoAudioFeatureExtractor,
    MiMoAudioTokenizerConfig,
    MiMoAudioTokenizerModel,
    resample_to_mono,
)
from mimo_hf.modeling.mimo_audio.codec_losses import multi_mel_loss
from mimo_hf.modeling.mimo_audio.mel import log_mel

RATE = 24_000
HELD_OUT = 10  # every tenth recording
QUIET = -7.0  # of logarithmic mel frames: what is less is silence


@dataclass
class ScriptArguments:
    recordings: str = field(default=str(ASTERISK), metadata={"help": "Folder of Asterisk's .g722 prompts."})
    numbers: int = field(
        default=0,
        metadata={"help": "Sentences of numbers, read by espeak-ng in several voices, that join the recordings."},
    )
    width: int = field(default=96, metadata={"help": "Width of encoder and decoder, and of the vocoder."})
    layers: int = field(default=3, metadata={"help": "Layers of each of the three."})
    quantizers: int = field(default=8, metadata={"help": "Codebooks."})
    entries: int = field(
        default=64,
        metadata={
            "help": "Entries of a codebook; a batch must have several frames (40 ms) for each, or they never settle."
        },
    )
    seconds: float = field(default=2.0, metadata={"help": "Of a training crop."})
    log_mel_weight: float = field(default=0.1, metadata={"help": "Weight of the logarithmic mel frames' error."})
    test_clips: int = field(default=24, metadata={"help": "Held-out crops that are measured."})
    quick: bool = field(default=False, metadata={"help": "A few steps of everything."})


@dataclass
class CodecTrainingArguments(TrainingArguments):
    output_dir: str = field(default="outputs/mimo-audio-codec", metadata={"help": "Where the codec is written."})
    max_steps: int = field(default=700, metadata={"help": "Training steps."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Crops of a step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "How the rate falls."})
    warmup_steps: float = field(default=30, metadata={"help": "Steps in which it rises."})
    adam_beta1: float = field(default=0.8, metadata={"help": "As audio codecs are trained."})
    adam_beta2: float = field(default=0.99, metadata={"help": "Likewise."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's."})
    logging_steps: float = field(default=20, metadata={"help": "Steps from one line of the log to the next."})
    report_to: str = field(default="none", metadata={"help": "Where the log goes beside the terminal."})
    save_strategy: str = field(default="no", metadata={"help": "The codec is written at the end."})
    seed: int = field(default=0, metadata={"help": "Seed of everything."})


class Crops(torch.utils.data.Dataset):
    """Pieces of recordings that are laid end to end; the same piece for the same number and seed."""

    def __init__(self, samples: torch.Tensor, length: int, count: int, seed: int):
        self.samples, self.length = samples, length
        generator = torch.Generator().manual_seed(seed)
        self.begins = torch.randint(len(samples) - length, (count,), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        begin = self.begins[index]
        return {"input_values": self.samples[begin : begin + self.length]}


class CodecTrainer(Trainer):
    """Overrides `compute_loss`: logarithmic mel frames join the model's own loss."""

    def __init__(self, *args, log_mel_weight: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.log_mel_weight = log_mel_weight

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = model(**inputs)
        target = inputs["input_values"]
        heard = output.audio_values[:, 0, : target.shape[1]]
        loss = output.loss + self.log_mel_weight * (frames_of(heard) - frames_of(target)).abs().mean()
        return (loss, output) if return_outputs else loss


def stacked(crops: Crops) -> torch.Tensor:
    return torch.stack([crop["input_values"] for crop in crops])


def held_out_crops(folder: str, count: int, seconds: float = 2.0) -> torch.Tensor:
    """`[count, samples]` at 24 kHz of recordings that training never sees."""
    return stacked(Crops(recordings(folder)[1], round(seconds * RATE), count, seed=1))


def frames_of(samples: torch.Tensor) -> torch.Tensor:
    lengths = torch.full((len(samples),), samples.shape[1], device=samples.device)
    made = log_mel(
        samples, lengths, n_fft=960, hop_length=240, n_mels=80, sampling_rate=RATE, f_min=0, f_max=None
    )  # fmt: skip
    return made.clamp(min=QUIET)


def recordings(folder: str, numbers: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples at 24 kHz of what is trained on and of what is held out; `numbers` sentences of a synthesiser are trained on too."""
    clips = samples_of(asterisk_prompts(folder))
    read = samples_of(spoken_numbers("train", numbers, seed=seed)) if numbers else []
    return (
        torch.cat([clip for number, clip in enumerate(clips) if number % HELD_OUT] + read),
        torch.cat([clip for number, clip in enumerate(clips) if number % HELD_OUT == 0]),
    )


def samples_of(speech: Dataset) -> list[torch.Tensor]:
    return [resample_to_mono(row["audio"]["array"], row["audio"]["sampling_rate"], RATE) for row in speech]


def make_codec(options: ScriptArguments) -> MiMoAudioTokenizerModel:
    width, layers = options.width, options.layers
    return MiMoAudioTokenizerModel(
        MiMoAudioTokenizerConfig(
            n_mels=80, d_model=width, encoder_layers=layers, encoder_attention_heads=4, encoder_ffn_dim=4 * width,
            encoder_skip_layer_id=1, decoder_layers=layers, decoder_attention_heads=4, decoder_ffn_dim=4 * width,
            vocoder_dim=width, vocoder_num_layers=layers, vocoder_attention_heads=4, vocoder_intermediate_dim=4 * width,
            num_quantizers=options.quantizers, codebook_size=[options.entries],
            initializer_range=0.08,  # a narrow model with the released one's 0.02 hardly moves
            commitment_loss_weight=0.02,  # more, and the encoder says the same for all frames
        )
    )  # fmt: skip


@torch.no_grad()
def errors(codec: MiMoAudioTokenizerModel, samples: torch.Tensor) -> dict[int, tuple[float, float]]:
    """By number of codebooks: the reconstruction loss, and the mean error of logarithmic mel frames. 0: of silence."""
    codec.eval()
    found = {}
    numbers = sorted({1, 2, 4, codec.config.num_quantizers})
    for number in (0, *(n for n in numbers if n <= codec.config.num_quantizers)):
        heard = torch.zeros_like(samples)
        if number:
            heard = codec(input_values=samples, num_quantizers=number).audio_values[:, 0, : samples.shape[1]]
        found[number] = mel_errors(heard, samples)
    return found


def mel_errors(heard: torch.Tensor, samples: torch.Tensor) -> tuple[float, float]:
    """Of clips `[B, samples]` of one length: the reconstruction loss, and the mean error of logarithmic mel frames."""
    lengths = torch.full((len(samples),), samples.shape[1])
    logarithms = (frames_of(heard) - frames_of(samples)).abs().mean()
    return float(multi_mel_loss(heard, samples, lengths)), float(logarithms)


def main(options: ScriptArguments, arguments: CodecTrainingArguments) -> None:
    console = Console()
    set_seed(arguments.seed)
    if options.quick:
        arguments.max_steps, options.test_clips, options.seconds = 3, 2, 0.5
        options.width, options.layers, options.entries = 16, 1, 8
    with console.status("reading recordings"):
        known, held_out = recordings(options.recordings, options.numbers, arguments.seed)
    length = round(options.seconds * RATE)
    codec = make_codec(options)
    console.print(
        f"{len(known) / RATE / 60:.1f} minutes of speech, {len(held_out) / RATE / 60:.1f} held out; "
        f"{sum(weights.numel() for weights in codec.parameters()):,} weights"
    )
    test = stacked(Crops(held_out, length, options.test_clips, seed=1))
    before = errors(codec, test)
    crops = Crops(known, length, arguments.max_steps * arguments.per_device_train_batch_size, arguments.seed)
    CodecTrainer(codec, arguments, train_dataset=crops, log_mel_weight=options.log_mel_weight).train()
    after = errors(codec.cpu(), test)

    table = Table("codebooks", "mel error before", "after", "log mel error before", "after", title="Held-out speech")
    for number, (magnitude, logarithm) in after.items():
        name = str(number) if number else "silence"
        table.add_row(
            name, f"{before[number][0]:.4f}", f"{magnitude:.4f}", f"{before[number][1]:.3f}", f"{logarithm:.3f}"
        )
    console.print(table)
    codec.save_pretrained(arguments.output_dir)
    run = {
        "command": shlex.join(["python", "examples/train_mimo_audio_codec.py", *sys.argv[1:]]),
        "seed": arguments.seed,
        "steps": arguments.max_steps,
    }
    Path(arguments.output_dir, RUN).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    MiMoAudioFeatureExtractor(feature_size=codec.config.n_mels).save_pretrained(arguments.output_dir)
    console.print(f"The codec is in {Path(arguments.output_dir)}.", highlight=False)


if __name__ == "__main__":
    main(*HfArgumentParser((ScriptArguments, CodecTrainingArguments)).parse_args_into_dataclasses())
