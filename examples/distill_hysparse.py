"""
Converts a dense model to HySparse and distils the dense model into it, with full layers chosen by period and by agreement.

    python examples/distill_hysparse.py

Without `--teacher` a small Qwen2 is trained first, on Python's own standard library, in rows that say everything twice: looking back
beyond the window pays. All in all minutes on a CPU; less with

    python examples/distill_hysparse.py --teacher_steps 20 --distill_steps 5 --eval_rows 4

With a checkpoint (Llama, Qwen2, Qwen3 or MiMo-7B) of your own:

    python examples/distill_hysparse.py --teacher path/or/id --length 4096 --copies 1 --sliding_window 128 --sparse_block_size 64 \
        --sparse_topk_tokens 1024 --learning_rate 1e-4 --batch_size 1

It prints, and writes to `distill_hysparse.json`, the KL divergence KL(teacher || student) in nats a token on held-out files before and
after. A converted model is not a copy of the dense one: before training, its sparse layers have never read the keys that they now
read.
"""

import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy, kl_div
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import mimo_hf
from mimo_hf.data import stdlib_code
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.modeling.hysparse import HySparseConfig, HySparseForCausalLM, convert_dense, layer_agreement
from mimo_hf.modeling.hysparse.layer_choice import best_full_layers

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from _record import record


@dataclass
class ScriptArguments:
    teacher: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a dense model; none: train a small one."}
    )
    output_dir: str = field(
        default="outputs/distill-hysparse", metadata={"help": "Folder of the figures and the students."}
    )
    teacher_steps: int = field(default=400, metadata={"help": "Steps that train the small teacher."})
    distill_steps: int = field(default=80, metadata={"help": "Steps that distil each student."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of the distillation."})
    layer_loss_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the relative squared error of each layer's output, beside the KL divergence."},
    )
    length: int = field(default=128, metadata={"help": "Tokens of a row."})
    copies: int = field(
        default=2,
        metadata={
            "help": "How often a row says the same: 2 is half a row of text, twice, so that looking back beyond the window "
            "pays; 1 is plain text."
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Rows in an optimizer step."})
    eval_rows: int = field(default=32, metadata={"help": "Held-out rows that the divergence is measured on."})
    agreement_rows: int = field(
        default=8, metadata={"help": "Training rows that the agreement of layers is measured on."}
    )
    sparse_layers_per_full: int = field(default=3, metadata={"help": "N of the periodic layout."})
    sliding_window: int = field(default=8, metadata={"help": "Tokens in the window of a sparse layer."})
    sparse_block_size: int = field(default=4, metadata={"help": "Tokens in a block."})
    sparse_topk_tokens: int = field(default=16, metadata={"help": "Selected tokens a query."})
    seed: int = field(default=0, metadata={"help": "Seed of the teacher's weights and of the order of the rows."})

    def __post_init__(self):
        if self.length <= self.sparse_topk_tokens:
            raise ValueError(
                f"`length={self.length}` must be larger than `sparse_topk_tokens={self.sparse_topk_tokens}`: in shorter rows "
                "every block is selected, and there is nothing to compare."
            )
        if self.copies < 1 or self.length % self.copies:
            raise ValueError(f"`length={self.length}` must be a multiple of `copies={self.copies}`.")
        if self.sparse_layers_per_full < 1:
            raise ValueError(
                f"`sparse_layers_per_full` must be at least 1; got {self.sparse_layers_per_full}. With 0 a converted model is "
                "the dense one."
            )


@dataclass(frozen=True)
class Arm:
    """A student: where its full layers are, where its gates start, and which branches it has."""

    layout: str
    gates: str
    window_only: bool = False


ARMS = [
    Arm("period", "equal"),
    Arm("agreement", "equal"),
    Arm("period", "window"),
    Arm("agreement", "window"),
    Arm("period", "none", window_only=True),
]


def rows_of(documents: Dataset, tokenizer, length: int, copies: int) -> Dataset:
    """Rows of `length` tokens, documents one after another, each piece `copies` times."""
    piece = length // copies

    def to_rows(batch):
        stream = np.concatenate(
            [[*ids, tokenizer.eos_token_id] for ids in tokenizer(batch["text"], verbose=False).input_ids]
        )
        rows = np.tile(stream[: len(stream) // piece * piece].reshape(-1, piece), copies)
        return {"input_ids": rows, "labels": rows}

    return documents.map(
        to_rows, batched=True, remove_columns=documents.column_names, keep_in_memory=True, desc="Tokens"
    ).with_format("torch")


def evenly(rows: Dataset, count: int) -> Dataset:
    """`count` rows (or all, where there are fewer) spread over the whole."""
    count = min(count, len(rows))
    return rows.select([index * len(rows) // count for index in range(count)])


def training_arguments(arguments: ScriptArguments, name: str, max_steps: int, learning_rate: float, **more):
    return TrainingArguments(
        output_dir=f"{arguments.output_dir}/{name}",
        max_steps=max_steps,
        per_device_train_batch_size=arguments.batch_size,
        per_device_eval_batch_size=arguments.batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(max_steps // 20, 1),
        adam_beta2=0.95,
        optim="adamw_torch_fused",
        save_strategy="no",
        logging_steps=20,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=arguments.seed,
        **more,
    )


def train_teacher(train_rows: Dataset, tokenizer, arguments: ScriptArguments) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    teacher = Qwen2ForCausalLM(config)
    # Embeddings much smaller than what the layers add to them are hard to hear, and the model learns late.
    torch.nn.init.normal_(teacher.get_input_embeddings().weight, std=0.3)
    Trainer(
        model=teacher,
        args=training_arguments(arguments, "teacher", arguments.teacher_steps, 4e-3, weight_decay=0.1),
        data_collator=default_data_collator,
        train_dataset=train_rows,
    ).train()
    teacher.config.use_cache = True  # the Trainer turned it off
    return teacher


def divergence(teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) in nats a token, of `[batch, length, vocabulary]`."""
    student, teacher = (logits.flatten(0, 1).float().log_softmax(-1) for logits in (student_logits, teacher_logits))
    return kl_div(student, teacher, reduction="batchmean", log_target=True)


@torch.no_grad()
def compare(teacher: PreTrainedModel, student: PreTrainedModel, rows: Dataset, batch_size: int) -> dict[str, float]:
    """Means over tokens: the divergence, how often both expect the same token most, and the student's cross-entropy."""
    was_training = student.training
    student.eval()
    sums: Counter = Counter()
    for batch in rows.iter(batch_size):
        ids = batch["input_ids"].to(student.device)
        wanted, given = (model(input_ids=ids, use_cache=False).logits for model in (teacher, student))
        sums["kl"] += divergence(wanted, given).item() * len(ids)
        sums["same_top_token"] += (wanted.argmax(-1) == given.argmax(-1)).float().mean().item() * len(ids)
        predictions = given[:, :-1].flatten(0, 1).float()
        sums["cross_entropy"] += cross_entropy(predictions, ids[:, 1:].flatten()).item() * len(ids)
    student.train(was_training)
    return {name: total / len(rows) for name, total in sums.items()}


class DistillationTrainer(Trainer):
    """
    `Trainer` with another loss: KL(teacher || student) on the logits of every token, and on request the squared error of each
    layer's output, relative to the teacher's mean square.
    """

    def __init__(self, *args, teacher: PreTrainedModel, layer_loss_weight: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval().requires_grad_(False)
        self.layer_loss_weight = layer_loss_weight
        self.model_accepts_loss_kwargs = (
            False  # the loss is a mean over the batch's tokens, whatever the model could do
        )

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        with_layers = self.layer_loss_weight > 0
        arguments = {"input_ids": inputs["input_ids"], "use_cache": False, "output_hidden_states": with_layers}
        with torch.no_grad():
            wanted = self.teacher(**arguments)
        given = model(**arguments)
        loss = divergence(wanted.logits, given.logits)
        if with_layers:
            pairs = list(zip(wanted.hidden_states[1:], given.hidden_states[1:], strict=True))
            errors = [(theirs - ours).square().mean() / theirs.square().mean() for theirs, ours in pairs]
            loss = loss + self.layer_loss_weight * sum(errors) / len(errors)
        return (loss, given) if return_outputs else loss


def distil(teacher, student: HySparseForCausalLM, name: str, rows, held_out, arguments: ScriptArguments) -> dict:
    """One student: its figures before and after."""
    before = compare(teacher, student, held_out, arguments.batch_size)
    trainer = DistillationTrainer(
        model=student,
        args=training_arguments(arguments, name, arguments.distill_steps, arguments.learning_rate),
        data_collator=default_data_collator,
        train_dataset=rows,
        teacher=teacher,
        layer_loss_weight=arguments.layer_loss_weight,
    )
    trainer.train()
    student.config.use_cache = True
    student.save_pretrained(f"{arguments.output_dir}/{name}")
    after = compare(teacher, student, held_out, arguments.batch_size)
    return {
        f"{key}_{when}": figures[key] for key in before for when, figures in (("before", before), ("after", after))
    }


def main(arguments: ScriptArguments):
    mimo_hf.register()
    set_seed(arguments.seed)
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(arguments.teacher or bundled("mimo-v2-flash"))
    train_rows, held_out = (
        rows_of(stdlib_code(split), tokenizer, arguments.length, arguments.copies) for split in ("train", "held_out")
    )
    held_out = evenly(held_out, arguments.eval_rows)
    if arguments.teacher:
        teacher = AutoModelForCausalLM.from_pretrained(arguments.teacher, dtype=torch.float32)
        teacher.to("cuda" if torch.cuda.is_available() else "cpu")
    else:
        teacher = train_teacher(train_rows, tokenizer, arguments)
    teacher.eval()
    teacher_s = time.perf_counter() - started

    selection = {
        "sparse_block_size": arguments.sparse_block_size,
        "sparse_topk_tokens": arguments.sparse_topk_tokens,
    }
    num_layers = teacher.config.num_hidden_layers
    periodic = HySparseConfig(
        num_hidden_layers=num_layers, sparse_layers_per_full=arguments.sparse_layers_per_full
    ).layer_types
    full_layers = {"period": [layer for layer, kind in enumerate(periodic) if kind == "full_attention"]}
    development = evenly(train_rows, arguments.agreement_rows).iter(arguments.batch_size)
    agreement = layer_agreement(teacher, (batch["input_ids"] for batch in development), **selection)
    full_layers["agreement"] = best_full_layers(agreement, len(full_layers["period"]))

    arms = []
    for arm in ARMS:
        full = full_layers[arm.layout]
        student = convert_dense(
            teacher,
            full_layers=full,
            sliding_window=arguments.sliding_window,
            gate_bias=arm.gates == "window",
            use_sparse_branch=not arm.window_only,
            **selection,
        )
        sources = student.config.kv_source_layers
        sparse = [layer for layer in range(num_layers) if layer not in full]
        arms.append(
            {
                "student": "hybrid sliding window" if arm.window_only else "HySparse",
                "full_layers": arm.layout,
                "gates_start": arm.gates,
                "agreement": float(np.mean([agreement[sources[layer], layer] for layer in sparse])),
                **distil(teacher, student, f"{arm.layout}-{arm.gates}", train_rows, held_out, arguments),
            }
        )
    settings = asdict(arguments)
    del settings["output_dir"]  # where the result lies does not change it
    path = record(
        "distill_hysparse",
        {
            "arguments": settings,
            "teacher": {
                "parameters": sum(parameter.numel() for parameter in teacher.parameters()),
                "layers": num_layers,
                **compare(teacher, teacher, held_out, arguments.batch_size),
            },
            "full_layers": full_layers,
            "students": arms,
            "layer_agreement": [
                {"blocks_of_layer": i, **{str(j): round(agreement[i, j].item(), 4) for j in range(i, num_layers)}}
                for i in range(num_layers)
            ],
            "wall_s": {"teacher": round(teacher_s, 1), "all": round(time.perf_counter() - started, 1)},
        },
        seed=arguments.seed,
        folder=Path(arguments.output_dir),
        timed=False,
    )
    report(arms, full_layers, path)


def report(arms: list[dict], full_layers: dict[str, list[int]], path: Path):
    print("\nKL(teacher || student), nats a token, on held-out files")
    print(f"{'student':<24}{'full layers':<12}{'gates start':<12}{'before':>8}{'after':>8}")
    for arm in arms:
        print(
            f"{arm['student']:<24}{arm['full_layers']:<12}{arm['gates_start']:<12}"
            f"{arm['kl_before']:>8.3f}{arm['kl_after']:>8.3f}"
        )
    for layout, layers in full_layers.items():
        print(f"{layout}: {layers}")
    print(path)


if __name__ == "__main__":
    (parsed,) = HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()
    main(parsed)
