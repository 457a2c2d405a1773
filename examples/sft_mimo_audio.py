r"""
Fine-tunes MiMo-Audio with transformers' Trainer: LoRA or all weights, a learning rate for each of three parts, the paper's two stages.

    python examples/sft_mimo_audio.py --quick

shows it in a minute on a CPU: a tiny random model learns to repeat synthetic codes. With a model and conversations of your own:

    python examples/sft_mimo_audio.py --model path/of/mimo-audio --dataset conversations.jsonl --task asr \
        --lora_r 64 --output_dir outputs/mimo_audio --per_device_train_batch_size 2 --gradient_accumulation_steps 8 --bf16

Each line of the file is `{"messages": [...]}`, as `MiMoAudioProcessor.apply_chat_template` takes them; audio parts have `path` or `codes`.
Codes need no codec: write them once with `processor.encode_audio`.

Stage 1 (`--stage 1`) learns text alone and leaves the patch decoder as it is; stage 2, the default, learns text and audio.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments

from mimo_hf.hub.checkpoints import bundled
from mimo_hf.modeling.mimo_audio import (
    MiMoAudioConfig,
    MiMoAudioDataCollator,
    MiMoAudioFeatureExtractor,
    MiMoAudioForConditionalGeneration,
    MiMoAudioProcessor,
    learning_rate_groups,
    lora_target_modules,
    set_training_stage,
)

QUICK = {
    "max_steps": 20, "per_device_train_batch_size": 8, "logging_steps": 5, "use_cpu": True, "report_to": "none", "save_strategy": "no",
    "output_dir": "outputs/mimo_audio", "lr_scheduler_type": "cosine", "warmup_steps": 1,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "speech_vocab_size": 17, "speech_zeroemb_idx": 16, "local_dim": 32, "local_layers": 1,
    "local_attn_heads": 2, "local_ffn_dim": 64, "local_attn_dropout": 0.0, "input_local_layers": 1,
}  # fmt: skip


@dataclass
class ScriptArguments:
    model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a model with its processor. None: a tiny random one, as with --quick."},
    )
    dataset: str | None = field(default=None, metadata={"help": "A .jsonl file; each line has `messages`."})
    task: str | None = field(
        default=None, metadata={"help": "How prompts are worded: asr, tts, spoken_dialogue, ... None: as they stand."}
    )
    quick: bool = field(
        default=False, metadata={"help": "A tiny random model and synthetic codes, 20 steps on a CPU."}
    )
    stage: int = field(
        default=2, metadata={"help": "1: text loss alone, patch decoder frozen; 2: all.", "choices": [1, 2]}
    )
    lora_r: int = field(
        default=0, metadata={"help": "Rank of LoRA on the language model's q, k, v, o; 0: all weights learn."}
    )
    lora_alpha: int = field(default=16, metadata={"help": "LoRA's scale is lora_alpha / lora_r."})
    lora_patch_models: bool = field(default=False, metadata={"help": "LoRA in patch encoder and decoder as well."})
    merge: bool = field(
        default=True, metadata={"help": "Write the merged model into OUTPUT_DIR/merged besides the adapter."}
    )
    lr_patch_encoder: float = field(
        default=5e-5, metadata={"help": "Learning rate of patch encoder and speech embeddings."}
    )
    lr_llm: float = field(
        default=1e-5, metadata={"help": "Learning rate of the language model, LoRA's weights included."}
    )
    lr_patch_decoder: float = field(default=5e-5, metadata={"help": "Learning rate of the patch decoder."})


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The text above as it is, and each option's default."""


def parse(argv: list[str] | None) -> tuple[ScriptArguments, TrainingArguments]:
    parser = HfArgumentParser((ScriptArguments, TrainingArguments), description=__doc__, formatter_class=Help)
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    given.add_argument("--quick", action="store_true")
    given.add_argument("--model")
    known = given.parse_known_args(argv)[0]
    if known.quick or known.model is None:
        parser.set_defaults(**QUICK)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    if arguments.quick and (arguments.model or arguments.dataset):
        parser.error("--quick goes without --model and --dataset: it makes both.")
    if (arguments.model is None) != (arguments.dataset is None):
        parser.error("--model and --dataset go together; without both, a tiny model learns synthetic codes.")
    if arguments.dataset and not Path(arguments.dataset).is_file():
        parser.error(f"--dataset must be a file that exists; got {arguments.dataset!r}.")
    training.remove_unused_columns = False
    return arguments, training


def make_tiny(seed: int) -> tuple[MiMoAudioForConditionalGeneration, MiMoAudioProcessor]:
    """A random model, and a processor without a codec."""
    tokenizer = AutoTokenizer.from_pretrained(bundled("mimo-v2-flash"))
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    processor = MiMoAudioProcessor(
        MiMoAudioFeatureExtractor(), tokenizer, speech_vocab_size=TINY["speech_vocab_size"], max_length=TINY["max_position_embeddings"]
    )  # fmt: skip
    torch.manual_seed(seed)
    config = MiMoAudioConfig(vocab_size=len(tokenizer), **processor.token_ids, **TINY)
    return MiMoAudioForConditionalGeneration(config), processor


def make_conversations(number: int, seed: int) -> list[list[dict]]:
    """Spoken turns: the answer repeats the question's codes, one higher in each channel."""
    generator = torch.Generator().manual_seed(seed)
    chats = []
    for _ in range(number):
        patches = int(torch.randint(2, 6, (), generator=generator))
        codes = torch.randint(0, 16, (1, 8), generator=generator).repeat(4 * patches, 1)
        answer = [{"type": "text", "text": f"{patches} patches."}, {"type": "audio", "codes": (codes + 1) % 16}]
        chats.append(
            [
                {"role": "user", "content": [{"type": "audio", "codes": codes}]},
                {"role": "assistant", "content": answer},
            ]
        )
    return chats


def read_conversations(file: str) -> list[list[dict]]:
    lines = [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    chats = [json.loads(line).get("messages") for line in lines]
    if not chats or not all(chats):
        raise SystemExit(
            f"--dataset must have `messages` in each line; {file!r} has {len(chats)} lines, one without, or none."
        )
    return chats


class Conversations(torch.utils.data.Dataset):
    """Rows of the processor, made when they are asked for."""

    def __init__(self, chats: list[list[dict]], processor: MiMoAudioProcessor, task: str | None):
        self.chats, self.processor, self.task = chats, processor, task

    def __len__(self) -> int:
        return len(self.chats)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return dict(self.processor.apply_chat_template(self.chats[number], task=self.task, output_labels=True))


def main(argv: list[str] | None = None) -> None:
    arguments, training = parse(argv)
    if arguments.model is None:
        model, processor = make_tiny(training.seed)
        chats = make_conversations(160, training.seed)
        arguments.task = arguments.task or "spoken_dialogue"
        arguments.lr_patch_encoder = arguments.lr_llm = arguments.lr_patch_decoder = 3e-3  # it begins at random
    else:
        model = MiMoAudioForConditionalGeneration.from_pretrained(arguments.model)
        processor = MiMoAudioProcessor.from_pretrained(arguments.model)
        chats = read_conversations(arguments.dataset)
    set_training_stage(model, arguments.stage)
    if arguments.lora_r:
        targets = lora_target_modules(arguments.lora_patch_models and arguments.stage == 2)
        model = get_peft_model(
            model, LoraConfig(r=arguments.lora_r, lora_alpha=arguments.lora_alpha, target_modules=targets)
        )
        model.print_trainable_parameters()
    groups = learning_rate_groups(
        model, arguments.lr_patch_encoder, arguments.lr_llm, arguments.lr_patch_decoder, training.weight_decay
    )
    print({group["name"]: group["lr"] for group in groups}, flush=True)
    trainer = Trainer(
        model,
        training,
        data_collator=MiMoAudioDataCollator(processor),
        train_dataset=Conversations(chats, processor, arguments.task),
        optimizers=(torch.optim.AdamW(groups), None),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
    processor.save_pretrained(training.output_dir)
    if arguments.lora_r and arguments.merge:
        merged = Path(training.output_dir, "merged")
        model.merge_and_unload().save_pretrained(merged)
        processor.save_pretrained(merged)
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    print(f"Loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last; the model is in {training.output_dir}.")


if __name__ == "__main__":
    main()
