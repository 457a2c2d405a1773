"""
Trains a small HySparse to find needles in the source code of Python's standard library, and shows which blocks it reads.

    python examples/pretrain_hysparse.py

The checkpoint in `mimo_hf/hub/tiny/hysparse/` is what this command wrote (some minutes on one CPU core). A first look that takes
seconds:

    python examples/pretrain_hysparse.py --steps 20 --output_dir outputs/first-look

Rows are bytes of code with records such as `<k3=7>` among them; at the end come questions, `<k3?>`, to be answered by `<7>`. The
full layer's attention is the oracle (arXiv 2602.03560, section 3.2): nothing tells it which block a record lies in.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import GenerationConfig, HfArgumentParser, PreTrainedTokenizerFast, set_seed

from mimo_hf import HySparseCache, HySparseConfig, HySparseForCausalLM
from mimo_hf.data import needle_vocabulary, needles_in_code
from mimo_hf.hub.training_run import run_facts

KEYS = VALUES = 16


@dataclass
class ScriptArguments:
    output_dir: str = field(default="outputs/hysparse", metadata={"help": "Folder of the result."})
    length: int = field(default=128, metadata={"help": "Tokens of a training row."})
    needles: int = field(default=8, metadata={"help": "Records and questions of a training row; tests have four."})
    batch_size: int = field(default=16, metadata={"help": "Rows in an optimizer step."})
    steps: int = field(default=800, metadata={"help": "Optimizer steps; every row is seen once."})
    learning_rate: float = field(default=4e-3, metadata={"help": "Peak learning rate; AdamW, warm-up, linear decay."})
    text_loss_weight: float = field(
        default=0.1, metadata={"help": "Weight of the next byte's loss beside the answers' loss."}
    )
    test_rows: int = field(default=256, metadata={"help": "Held-out rows of each measurement."})
    seed: int = field(default=0, metadata={"help": "Seed of the weights and of the rows."})


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte b is token b; then the words of the needles."""
    printable = sorted(pre_tokenizers.ByteLevel.alphabet(), key=ord)
    # GPT-2's table: bytes that print stand for themselves, the others for characters from 256 on, in their order.
    itself = [character for character in printable if ord(character) < 256]
    others = iter(character for character in printable if ord(character) >= 256)
    of_byte = {byte: chr(byte) if chr(byte) in itself else next(others) for byte in range(256)}
    tokenizer = Tokenizer(models.BPE({character: byte for byte, character in of_byte.items()}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(needle_vocabulary(KEYS, VALUES))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def small_config() -> HySparseConfig:
    """One full layer whose selection three sparse layers share: 4 blocks of 8 tokens."""
    return HySparseConfig(
        vocab_size=256 + len(needle_vocabulary(KEYS, VALUES)),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        layer_types=["full_attention", *["sliding_attention"] * 3],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=32,
        sparse_block_size=8,
        sparse_topk_tokens=32,
        max_position_embeddings=4096,
        initializer_range=0.06,
    )


def initialise(model: HySparseForCausalLM):
    """A record and its question start alike, and keys look for what queries look for: both are learned late from nothing."""
    embeddings = model.get_input_embeddings().weight.data
    torch.nn.init.normal_(embeddings, std=0.3)
    key, value = torch.randn(2, KEYS, embeddings.shape[1]).mul(0.3)
    embeddings[256 : 256 + KEYS * VALUES] = (key[:, None] + value).flatten(0, 1)
    embeddings[256 + KEYS * VALUES :][:KEYS] = key
    attention = model.model.layers[0].self_attn
    heads = attention.q_proj.weight.data.unflatten(0, (-1, attention.head_dim))
    heads *= 2  # a first look must stand out among a row's worth of text
    attention.k_proj.weight.data.copy_(heads[:: attention.num_key_value_groups].flatten(0, 1))


def columns(rows) -> dict[str, Tensor]:
    batch = rows.with_format("torch")[:]
    return {name: values.long() for name, values in batch.items()}


def losses(model: HySparseForCausalLM, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the answers, and of the bytes of text; nats a token."""
    ids = batch["input_ids"]
    logits = model(ids, use_cache=False).logits[:, :-1]
    loss = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    is_text = ids[:, 1:] < 256
    return loss.gather(1, batch["questions"]).mean(), loss[is_text].mean()


def train(model: HySparseForCausalLM, arguments: ScriptArguments) -> list[dict]:
    rows = columns(
        needles_in_code(
            arguments.steps * arguments.batch_size,
            length=arguments.length,
            needles=arguments.needles,
            seed=arguments.seed,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.98), fused=True)
    steps = arguments.steps

    def share_of_peak(step: int) -> float:
        return min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak)
    history = []
    for step in (bar := tqdm(range(steps), desc="Training")):
        first = step * arguments.batch_size
        batch = {name: values[first : first + arguments.batch_size] for name, values in rows.items()}
        answers, text = losses(model, batch)
        (answers + arguments.text_loss_weight * text).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % max(steps // 30, 1) == 0:
            history.append({"step": step + 1, "answers": answers.item(), "text": text.item()})
            bar.set_postfix(answers=f"{answers.item():.3f}", text=f"{text.item():.3f}")
    return history


@torch.no_grad()
def measure(model: HySparseForCausalLM, num_rows: int, **kind) -> dict[str, float]:
    """
    On held-out code: the share of right answers; how often the block with the record is among those that a question's sparse
    layers read, in one group of heads at least, and how often chance would have it so; and bits a byte of the text.
    """
    rows = columns(needles_in_code(num_rows, split="held_out", seed=1, **kind))
    block, topk = model.config.sparse_block_size, model.config.topk_blocks
    groups = model.config.num_key_value_heads
    right, picked, chance, text_loss = [], [], [], []
    for first in range(0, num_rows, 16):
        batch = {name: values[first : first + 16] for name, values in rows.items()}
        cache = HySparseCache(model.config, record_selection=True)
        ids, questions = batch["input_ids"], batch["questions"]
        logits = model(ids, past_key_values=cache).logits
        answers = ids.gather(1, questions + 1)
        right.append(logits.argmax(-1).gather(1, questions) == answers)
        index = questions[:, None, :, None].expand(-1, groups, -1, topk)
        selected = cache.last_selection[0].long().gather(2, index)
        picked.append((selected == (batch["needles"] // block)[:, None, :, None]).any(-1).any(1))
        chance.append(1 - (1 - topk / (questions // block + 1)).clamp(min=0) ** groups)
        loss = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        text_loss.append(loss[ids[:, 1:] < 256])
    return {
        "answered": torch.cat(right).float().mean().item(),
        "needle_block_selected": torch.cat(picked).float().mean().item(),
        "by_chance": torch.cat(chance).mean().item(),
        "bits_a_byte": torch.cat(text_loss).mean().item() / torch.tensor(2.0).log().item(),
    }


CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [mimo, sparse-attention, hysparse, tiny, code]
---

# HySparse, tiny

A HySparse ([arXiv 2602.03560](https://arxiv.org/abs/2602.03560)) with {parameters:,} parameters: one full-attention layer that
selects {topk_blocks} blocks of {block_size} tokens for each query, and three sparse layers that read those blocks of its keys and
values beside a window of {window}. It finds records in source code, and its selection can be watched doing so. It is for demos
and tests. It is not a model of Xiaomi's.

```python
import mimo_hf, torch
from mimo_hf import HySparseCache
from mimo_hf.hub.checkpoints import bundled
from transformers import AutoModelForCausalLM, AutoTokenizer

mimo_hf.register()
tokenizer = AutoTokenizer.from_pretrained(bundled("hysparse"))
model = AutoModelForCausalLM.from_pretrained(bundled("hysparse"))
code = open(torch.__file__).read()[:200]
ids = tokenizer(code[:90] + "<k3=7>" + code[90:] + "<k3?>", return_tensors="pt").input_ids
cache = HySparseCache(model.config, record_selection=True)
print(tokenizer.decode(model(ids, past_key_values=cache).logits[0, -1].argmax()))  # <7>
print(90 // {block_size}, cache.last_selection[0][0, :, -1].tolist())  # the record's block, and those that are read
```

Token b is byte b; `<k0=0>` to `<k15=15>` are records, `<k0?>` to `<k15?>` questions, `<0>` to `<15>` answers.

## How it was made

    {command}

on {device} with Python {python}, torch {torch}, transformers {transformers}: {steps} steps of {batch_size} rows
of {length} tokens with {needles} records each. A record and its question start with related embeddings, and the full layer's keys as its
queries. The selection is never trained itself: no gradient flows through it.

## Measured

On the saved weights, computed in float32, on files that were held out, 4 records a row; all numbers are from
`training_run.json`.

| context | right answers | record's block selected | selected by chance | bits a byte of text |
|---|---|---|---|---|
{lengths}

| depth of the record, context {depth_context} | right answers | record's block selected |
|---|---|---|
{depths}

## Limits

Retrieval is one lookup of one token by its key: easier than what benchmarks of long contexts ask for, and no evidence about
language models. Contexts longer than {length} tokens were not trained. Its text is that of a model of this size.
"""


def card(run: dict) -> str:
    """The model card; every number in it is in `run`."""
    arguments, config = run["arguments"], run["config"]
    return CARD.format(
        parameters=run["parameters"],
        topk_blocks=config["sparse_topk_tokens"] // config["sparse_block_size"],
        block_size=config["sparse_block_size"],
        window=config["sliding_window"],
        command=run["command"],
        device=run["device"],
        **run["versions"],
        depth_context=4 * arguments["length"],
        **{name: arguments[name] for name in ("steps", "batch_size", "length", "needles")},
        lengths="\n".join(
            f"| {length} | {found['answered']:.1%} | {found['needle_block_selected']:.1%} | {found['by_chance']:.1%} | "
            f"{found['bits_a_byte']:.2f} |"
            for length, found in run["by_length"].items()
        ),
        depths="\n".join(
            f"| {depth} | {found['answered']:.1%} | {found['needle_block_selected']:.1%} |"
            for depth, found in run["by_depth"].items()
        ),
    )


def main(arguments: ScriptArguments):
    folder = Path(arguments.output_dir)
    started = time.perf_counter()
    set_seed(arguments.seed)
    model = HySparseForCausalLM(small_config())
    initialise(model)
    history = train(model, arguments)
    model.generation_config = GenerationConfig(do_sample=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)

    model = HySparseForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    length, rows = arguments.length, arguments.test_rows
    settings = asdict(arguments)
    del settings["output_dir"]
    run = {
        **run_facts("examples/pretrain_hysparse.py", arguments.seed, model.device.type),
        "arguments": settings,
        "config": {
            name: getattr(model.config, name) for name in ("sliding_window", "sparse_block_size", "sparse_topk_tokens")
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "by_length": {str(n * length): measure(model, rows, length=n * length) for n in (1, 2, 4, 8)},
        "by_depth": {
            str(depth): measure(model, rows, length=4 * length, depth=depth) for depth in (0, 0.25, 0.5, 0.75, 1)
        },
        "history": history,
    }
    run["wall_s"] = round(time.perf_counter() - started, 1)
    (folder / "training_run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(run), encoding="utf-8")
    found = run["by_length"][str(length)]
    print(
        f"{folder}: {found['answered']:.1%} of the answers are right; the record's block was selected for "
        f"{found['needle_block_selected']:.1%} of the questions, {found['by_chance']:.1%} by chance."
    )


if __name__ == "__main__":
    (parsed,) = HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()
    main(parsed)
