"""
Pre-trains a small MiMo-V2-Flash with three multi-token-prediction heads on Python's own standard library.

    python examples/pretrain_mimo.py

The checkpoint in `mimo_hf/hub/tiny/mimo-v2-flash/` is what this command wrote (three quarters of an hour on two CPU cores). A first
look that takes seconds:

    python examples/pretrain_mimo.py --tiny --stage1_steps 20 --stage2_steps 10 --output_dir outputs/first-look

Two stages, as in arXiv 2601.02780, section 2.3.2: the trunk and one head together, then three copies of that head alone.
"""

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy, one_hot
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerState,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from mimo_hf import MiMoV2FlashConfig, MiMoV2FlashForCausalLM, RouterBiasUpdateCallback, record_routing
from mimo_hf.data import stdlib_code
from mimo_hf.hub.training_run import run_facts

END_OF_TEXT = "<|endoftext|>"


@dataclass
class ScriptArguments:
    output_dir: str = field(
        default="outputs/mimo-v2-flash", metadata={"help": "Folder of the result; checkpoints go into its subfolders."}
    )
    vocab_size: int = field(
        default=512,
        metadata={"help": "Size of the byte-level BPE vocabulary: 256 bytes, the end-of-text token, and merges."},
    )
    block_size: int = field(
        default=256, metadata={"help": "Tokens of a training block. Files are packed into blocks."}
    )
    batch_size: int = field(default=8, metadata={"help": "Blocks in an optimizer step."})
    stage1_steps: int = field(
        default=3600, metadata={"help": "Steps that train the trunk and the first head together."}
    )
    stage2_steps: int = field(default=600, metadata={"help": "Steps that train the heads, with the trunk as it is."})
    learning_rate: float = field(default=4e-3, metadata={"help": "Peak learning rate of both stages; AdamW, cosine."})
    mtp_loss_weight: float = field(
        default=0.3, metadata={"help": "Weight of the heads' loss. The paper: 0.3, later 0.1."}
    )
    router_aux_loss_coef: float = field(
        default=1e-4, metadata={"help": "Weight of the sequence balance loss in stage 1. The paper: 1e-5."}
    )
    bias_update_rate: float = field(
        default=1e-3, metadata={"help": "How far a router's bias moves towards even expert load after each step."}
    )
    num_mtp_layers: int = field(default=3, metadata={"help": "K: heads of the result, and tokens drafted at once."})
    eval_steps: int = field(default=200, metadata={"help": "Steps between two measurements on held-out blocks."})
    num_prompts: int = field(
        default=48, metadata={"help": "Held-out prompts whose continuations are decoded at the end."}
    )
    prompt_tokens: int = field(default=128, metadata={"help": "Length of each of these prompts."})
    new_tokens: int = field(default=128, metadata={"help": "Length of each continuation."})
    tiny: bool = field(default=False, metadata={"help": "A very small model on a few files, to try the script."})
    seed: int = field(default=0, metadata={"help": "Seed of the weights and of the order of the blocks."})
    resume: bool = field(default=False, metadata={"help": "Continue from the last checkpoints in `output_dir`."})

    def __post_init__(self):
        if self.vocab_size < 257:
            raise ValueError(
                f"`vocab_size` must be at least 257 (256 bytes and {END_OF_TEXT}); got {self.vocab_size}."
            )
        if self.prompt_tokens >= self.block_size:
            raise ValueError(
                f"`prompt_tokens={self.prompt_tokens}` must be smaller than `block_size={self.block_size}`: prompts are "
                "the beginnings of held-out blocks."
            )


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text comes back unchanged from `decode(encode(text))`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def pack(documents: Dataset, tokenizer: PreTrainedTokenizerFast, block_size: int) -> Dataset:
    """Blocks of `block_size` tokens, documents one after another with an end-of-text token behind each."""

    def to_blocks(batch):
        stream = np.concatenate([[*ids, tokenizer.eos_token_id] for ids in tokenizer(batch["text"]).input_ids])
        blocks = stream[: len(stream) // block_size * block_size].reshape(-1, block_size)
        return {"input_ids": blocks, "labels": blocks}

    return documents.map(
        to_blocks, batched=True, remove_columns=documents.column_names, keep_in_memory=True, desc="Packing"
    ).with_format("torch")


def model_config(arguments: ScriptArguments, tokenizer: PreTrainedTokenizerFast) -> MiMoV2FlashConfig:
    """Layer types, value scale, expert routing as in the large model; everything else smaller."""
    size = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 48, "num_attention_heads": 4}
    if arguments.tiny:
        size = {"hidden_size": 16, "intermediate_size": 32, "moe_intermediate_size": 8, "num_attention_heads": 4}
    return MiMoV2FlashConfig(
        **size,
        vocab_size=len(tokenizer),
        num_hidden_layers=6,  # global, four times sliding window, global; a dense MLP and five times experts
        num_key_value_heads=2,
        head_dim=24,
        v_head_dim=16,
        sliding_window=64,
        n_routed_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=2048,
        rope_theta=100_000.0,
        swa_rope_theta=10_000.0,
        initializer_range=0.05,
        num_mtp_layers=1,
        mtp_loss_weight=arguments.mtp_loss_weight,
        router_aux_loss_coef=arguments.router_aux_loss_coef,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def cross_entropies(model: MiMoV2FlashForCausalLM, blocks: Dataset, batch_size: int) -> dict[str, float]:
    """Mean cross-entropy in nats a token of the trunk, and of each head for the token that it predicts."""
    was_training = model.training
    model.eval()
    sums: Counter = Counter()
    counts: Counter = Counter()
    for batch in blocks.iter(batch_size):
        ids = batch["input_ids"].to(model.device)
        trunk = model(input_ids=ids, use_cache=False).logits
        for ahead, logits in enumerate([trunk, *model.mtp_logits(ids)], start=1):
            name = "trunk" if ahead == 1 else f"head_{ahead - 2}"
            targets = ids[:, ahead:]
            predictions = logits[:, : targets.shape[1]].flatten(0, 1).float()
            sums[name] += cross_entropy(predictions, targets.flatten(), reduction="sum").item()
            counts[name] += targets.numel()
    model.train(was_training)
    return {name: sums[name] / counts[name] for name in sums}


class MTPTrainer(Trainer):
    """`Trainer` that logs the heads' loss beside the total, and evaluates trunk and heads apart."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        self.last_mtp_loss = outputs.mtp_loss.detach()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs["mtp_loss"] = self.last_mtp_loss.item()
        super().log(logs, *args, **kwargs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        losses = cross_entropies(self.model, self.eval_dataset, self.args.per_device_eval_batch_size)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in losses.items()}
        self.log(metrics)
        return metrics

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # `Trainer` looks for the parameters by name, but files hold each expert apart; `from_pretrained` joins them.
        saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        self.model.load_state_dict(saved.state_dict())


def train(model, stage: int, max_steps: int, train_blocks, held_out_blocks, arguments: ScriptArguments, callbacks=()):
    """One stage. Returns its history: what the Trainer logged, and the held-out cross-entropies between."""
    folder = f"{arguments.output_dir}/stage{stage}"
    training_arguments = TrainingArguments(
        output_dir=folder,
        max_steps=max_steps,
        per_device_train_batch_size=arguments.batch_size,
        per_device_eval_batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(max_steps // 20, 1),
        weight_decay=0.1,
        adam_beta2=0.95,
        optim="adamw_torch_fused",
        eval_strategy="steps",
        eval_steps=arguments.eval_steps,
        save_steps=5 * arguments.eval_steps,
        save_total_limit=1,
        logging_steps=min(arguments.eval_steps, 20),
        report_to="none",
        seed=arguments.seed + stage,
    )
    trainer = MTPTrainer(
        model=model,
        args=training_arguments,
        data_collator=default_data_collator,
        train_dataset=train_blocks,
        eval_dataset=held_out_blocks,
        callbacks=list(callbacks),
    )
    last = get_last_checkpoint(folder) if arguments.resume and Path(folder).is_dir() else None
    saved = TrainerState.load_from_json(f"{last}/trainer_state.json") if last else TrainerState()
    if saved.global_step < max_steps:
        trainer.train(resume_from_checkpoint=last)
    else:
        trainer._load_from_checkpoint(last)
        trainer.state = saved
    dropped = {"epoch", "grad_norm", "total_flos"}
    return [{name: value for name, value in row.items() if name not in dropped} for row in trainer.state.log_history]


@torch.no_grad()
def expert_load(model: MiMoV2FlashForCausalLM, blocks: Dataset) -> list[float]:
    """Tokens of the busiest expert over the mean, for each layer with experts; 1 is perfect balance."""
    loads = 0
    for batch in blocks.iter(16):
        with record_routing(model) as routing:
            model(input_ids=batch["input_ids"].to(model.device), use_cache=False)
        loads = loads + one_hot(routing.indices.long(), model.config.n_routed_experts).sum(dim=(0, 2))
    return (loads.amax(dim=1) / loads.float().mean(dim=1)).tolist()


def ends_in_a_loop(tokens: list[int], repeats: int = 3) -> bool:
    """Whether the text ends with the same piece three times in a row, however long the piece."""
    pieces = range(1, len(tokens) // repeats + 1)
    return any(tokens[-repeats * length :] == tokens[-length:] * repeats for length in pieces)


def acceptance(model: MiMoV2FlashForCausalLM, prompts: list[torch.Tensor], new_tokens: int, **kwargs) -> dict:
    """Decodes every prompt with `use_mtp=True`; mean acceptance length over all rounds, with and without loops."""
    runs = []
    for prompt in tqdm(prompts, desc="Acceptance length"):
        ids = prompt[None].to(model.device)
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, use_mtp=True, **kwargs
        )
        runs.append((ends_in_a_loop(output[0, len(prompt) :].tolist()), model.mtp_statistics))

    def mean_length(statistics):
        rounds = sum(run.rounds for run in statistics)
        return 1 + sum(sum(run.accepted) for run in statistics) / rounds if rounds else None

    return {
        "acceptance_length": mean_length([run for _, run in runs]),
        "acceptance_length_without_loops": mean_length([run for loops, run in runs if not loops]),
        "prompts": len(prompts),
        "loops": sum(loops for loops, _ in runs),
        "rounds": sum(run.rounds for _, run in runs),
    }


CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [mimo, mtp, moe, tiny, code]
---

# MiMo-V2-Flash, tiny

A MiMo-V2-Flash ([arXiv 2601.02780](https://arxiv.org/abs/2601.02780)) with {parameters:,} parameters, of them {heads:,}
in {num_heads} multi-token-prediction heads. Sliding-window and global attention, sink biases and routed experts are those
of the large model; only the sizes differ. It is for demos and tests. It is not a model of Xiaomi's.

```python
import mimo_hf
from transformers import AutoModelForCausalLM, AutoTokenizer

mimo_hf.register()
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)
inputs = tokenizer("class Stack:\\n    def __init__(self):\\n", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=128, use_mtp=True)[0]))
print(model.mtp_statistics.acceptance_length)
```

## How it was made

    {command}

on {device} with Python {python}, torch {torch}, transformers {transformers}. Trained on {files}
files of that Python's standard library ({tokens:,} tokens); {held_out_files} other files are held out.

## Measured

On the saved weights, computed in float32; all numbers are from `training_run.json`.

| on held-out files | |
|---|---|
| cross-entropy of the trunk, nats a token | {trunk:.3f} |
| cross-entropy of the heads, nats a token | {head_losses} |
| cross-entropy of token frequencies alone, nats a token | {unigram:.3f} |
| acceptance length, greedy, at most {cap} | {greedy:.2f} |
| the same, continuations that end in a loop left out | {greedy_no_loops} |
| continuations that end in a loop | {loops} of {prompts} |
| acceptance length, sampled at temperature 1 | {sampled:.2f} |

## Limits

It has seen one library and less than an hour of training: it writes text in the shape of Python, not programs that work.
Blocks had {block_size} tokens; longer contexts are untried. Greedy text often repeats itself, and repetition is easy to
draft, which is why loops are counted apart. In bfloat16 the drafted and the plain greedy text may part at near ties.
"""


def card(run: dict) -> str:
    """The model card; every number in it is in `run`."""
    greedy, sampled, losses = run["acceptance"]["greedy"], run["acceptance"]["sampled"], run["held_out_losses"]
    without_loops = greedy["acceptance_length_without_loops"]
    return CARD.format(
        parameters=run["parameters"]["total"],
        heads=run["parameters"]["mtp_heads"],
        num_heads=run["arguments"]["num_mtp_layers"],
        command=run["command"],
        device=run["device"],
        **run["versions"],
        files=run["corpus"]["train"]["files"],
        tokens=run["corpus"]["train"]["tokens"],
        held_out_files=run["corpus"]["held_out"]["files"],
        trunk=losses["trunk"],
        head_losses=", ".join(f"{loss:.3f}" for name, loss in losses.items() if name.startswith("head_")),
        unigram=losses["unigram"],
        cap=run["arguments"]["num_mtp_layers"] + 1,
        greedy=greedy["acceptance_length"],
        greedy_no_loops="none left" if without_loops is None else f"{without_loops:.2f}",
        loops=greedy["loops"],
        prompts=greedy["prompts"],
        sampled=sampled["acceptance_length"],
        block_size=run["arguments"]["block_size"],
    )


def unigram_cross_entropy(train_blocks: Dataset, held_out_blocks: Dataset, vocab_size: int) -> float:
    """What a model that knows only how frequent tokens are would score on the held-out blocks; add-one smoothing."""
    counts = torch.bincount(train_blocks[:]["input_ids"].flatten(), minlength=vocab_size) + 1.0
    return -(counts / counts.sum()).log()[held_out_blocks[:]["input_ids"]].mean().item()


def evenly(rows: Dataset, count: int) -> Dataset:
    """`count` rows (or all, where there are fewer) spread over the whole split."""
    count = min(count, len(rows))
    return rows.select([index * len(rows) // count for index in range(count)])


def save(model: MiMoV2FlashForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path):
    model.config.mtp_train_mode = "joint"
    model.config.use_cache = True  # the Trainer turned it off
    model.config.output_router_logits = False
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: ScriptArguments):
    folder = Path(arguments.output_dir)
    set_seed(arguments.seed)
    wall_s = {}

    started = time.perf_counter()
    corpus = {split: stdlib_code(split) for split in ("train", "held_out")}
    if arguments.tiny:
        corpus = {split: evenly(documents, 4) for split, documents in corpus.items()}
    tokenizer = train_tokenizer(corpus["train"]["text"], arguments.vocab_size)
    blocks = {split: pack(documents, tokenizer, arguments.block_size) for split, documents in corpus.items()}
    watched = evenly(blocks["held_out"], 48)
    wall_s["corpus"] = time.perf_counter() - started

    started = time.perf_counter()
    model = MiMoV2FlashForCausalLM(model_config(arguments, tokenizer))
    # Embeddings much smaller than what the layers add to them are hard to hear, and the trunk learns late.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    model.config.output_router_logits = True
    balance = RouterBiasUpdateCallback(arguments.bias_update_rate)
    history = {"stage1": train(model, 1, arguments.stage1_steps, blocks["train"], watched, arguments, [balance])}
    wall_s["stage1"] = time.perf_counter() - started

    started = time.perf_counter()
    model.config.output_router_logits = False
    model.replicate_mtp_heads(arguments.num_mtp_layers)
    history["stage2"] = train(model, 2, arguments.stage2_steps, blocks["train"], watched, arguments)
    wall_s["stage2"] = time.perf_counter() - started

    started = time.perf_counter()
    save(model, tokenizer, folder)
    model = MiMoV2FlashForCausalLM.from_pretrained(folder, dtype=torch.float32)
    losses = cross_entropies(model, blocks["held_out"], arguments.batch_size)
    losses["unigram"] = unigram_cross_entropy(blocks["train"], blocks["held_out"], len(tokenizer))
    prompts = [
        row[: arguments.prompt_tokens] for row in evenly(blocks["held_out"], arguments.num_prompts)["input_ids"]
    ]
    accepted = {
        "greedy": acceptance(model, prompts, arguments.new_tokens, do_sample=False),
        "sampled": acceptance(model, prompts, arguments.new_tokens, do_sample=True, temperature=1.0, top_k=0),
    }
    loads = expert_load(model, watched)
    wall_s["measurements"] = time.perf_counter() - started

    settings = asdict(arguments)
    del settings["output_dir"], settings["resume"]  # where the result lies does not change it
    run = {
        **run_facts("examples/pretrain_mimo.py", arguments.seed, model.device.type),
        "arguments": settings,
        "corpus": {
            split: {
                "files": len(documents),
                "characters": sum(map(len, documents["text"])),
                "tokens": blocks[split].num_rows * arguments.block_size,
            }
            for split, documents in corpus.items()
        },
        "parameters": {
            "total": sum(parameter.numel() for parameter in model.parameters()),
            "mtp_heads": sum(parameter.numel() for parameter in model.mtp_heads.parameters()),
        },
        "wall_s": {name: round(seconds, 1) for name, seconds in wall_s.items()},
        "held_out_losses": losses,
        "acceptance": accepted,
        "expert_load_max_over_mean": loads,
        "history": history,
    }
    (folder / "training_run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(run), encoding="utf-8")
    print(
        f"{folder}: acceptance length {accepted['greedy']['acceptance_length']:.2f}, trunk {losses['trunk']:.3f} nats."
    )


if __name__ == "__main__":
    (parsed,) = HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()
    main(parsed)
