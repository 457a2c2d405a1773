"""A step of MOPD with three teachers, and of TRL's DistillationTrainer with one, on random weights: equal prompts and tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, ProgressCallback
from trl import DistillationConfig, DistillationTrainer

from mimo_hf.data.word_tokenizer import word_tokenizer
from mimo_hf.trainers.mopd import LoraTeacher, MOPDConfig, MOPDTrainer

DOMAINS = ("math", "code", "chat")
# teachers: an adapter each on the student's base; a model each; models that rest in CPU memory
KINDS = ("adapters", "copies", "offload")


@dataclass(frozen=True)
class Shape:
    """
    Attributes:
        rows: of a step, as many of each domain.
        prompt_tokens, new_tokens: of each row; completions never end early.
    """

    hidden_size: int
    layers: int
    heads: int
    vocab_size: int
    rows: int
    prompt_tokens: int
    new_tokens: int
    rank: int = 16
    device: str = "cpu"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == "cuda" else torch.float32


def make_base(shape: Shape) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=3 * shape.hidden_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        max_position_embeddings=shape.prompt_tokens + shape.new_tokens, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(shape.dtype)


def lora(shape: Shape, **options) -> LoraConfig:
    return LoraConfig(
        r=shape.rank, lora_alpha=2 * shape.rank, target_modules="all-linear", task_type="CAUSAL_LM", **options
    )


def save_adapters(shape: Shape, folder: Path) -> dict[str, str]:
    """Of each domain one with random weights."""
    paths = {}
    for index, domain in enumerate(DOMAINS):
        base = make_base(shape)
        torch.manual_seed(1 + index)
        paths[domain] = str(folder / domain)
        get_peft_model(base, lora(shape, init_lora_weights=False)).save_pretrained(paths[domain])
    return paths


def merged(shape: Shape, path: str) -> LlamaForCausalLM:
    return PeftModel.from_pretrained(make_base(shape), path).merge_and_unload()


def prompts(shape: Shape, steps: int) -> Dataset:
    """Domains in turn."""
    text = " ".join(f"w{index % (shape.vocab_size - 2)}" for index in range(shape.prompt_tokens))
    count = shape.rows * steps
    return Dataset.from_dict(
        {"prompt": [text] * count, "domain": [DOMAINS[index % len(DOMAINS)] for index in range(count)]}
    )


def settings(shape: Shape, folder: Path, steps: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "run"), "max_steps": steps, "per_device_train_batch_size": shape.rows,
        "max_completion_length": shape.new_tokens, "generation_kwargs": {"min_new_tokens": shape.new_tokens},
        "learning_rate": 1e-6, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "use_cpu": shape.device == "cpu", "disable_tqdm": True, "logging_steps": steps,
    }  # fmt: skip


def make_tokenizer(shape: Shape):
    return word_tokenizer([f"w{index}" for index in range(shape.vocab_size - 2)])


def mopd_trainer(
    kind: str, shape: Shape, adapters: dict[str, str], folder: Path, steps: int, estimator: str
) -> MOPDTrainer:
    """The student has an adapter of its own on the base."""
    teachers: dict[str, Any] = {
        domain: LoraTeacher(path) if kind == "adapters" else merged(shape, path) for domain, path in adapters.items()
    }
    offload = "cpu" if kind == "offload" else "none"
    args = MOPDConfig(**settings(shape, folder, steps), kl_estimator=estimator, teacher_offload=offload)
    trainer = MOPDTrainer(
        make_base(shape), None, args, prompts(shape, steps), processing_class=make_tokenizer(shape), peft_config=lora(shape),
        teachers=teachers,
    )  # fmt: skip
    return quiet(trainer)


def trl_trainer(shape: Shape, adapters: dict[str, str], folder: Path, steps: int) -> DistillationTrainer:
    """One teacher, a model of its own, for all rows."""
    trainer = DistillationTrainer(
        make_base(shape), merged(shape, adapters[DOMAINS[0]]), DistillationConfig(**settings(shape, folder, steps), beta=1.0),
        prompts(shape, steps).select_columns("prompt"), processing_class=make_tokenizer(shape), peft_config=lora(shape),
    )  # fmt: skip
    return quiet(trainer)


def quiet(trainer):
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def tokens_of(trainer) -> int:
    """Prompts and completions of the last training."""
    return trainer.state.num_input_tokens_seen


def held_bytes(trainer) -> int:
    """Weights in memory of the student and of all teachers; what is shared counts once."""
    models = [trainer.model]
    if isinstance(trainer, MOPDTrainer):
        models += [teacher.host.model for teacher in trainer.pool.teachers]
    else:
        models.append(trainer.teacher_model)
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for model in models
        for tensor in model.parameters()
    }
    return sum(storages.values())
