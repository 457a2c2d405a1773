"""Small local models and texts under the names that TRL's tests load from the Hub, for a machine that can't reach it."""

import codecs
import contextlib
import io
import json
from pathlib import Path

import torch
import transformers
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

OWNER = "trl-internal-testing"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]
SIZE = {
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "bos_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
# Name on the Hub: (architecture, changes of its configuration, chat template of TRL's)
MODELS: dict[str, tuple[str, dict, str]] = {
    "tiny-Qwen2ForCausalLM-2.5": ("Qwen2ForCausalLM", {}, "qwen2_5"),
    "tiny-Qwen2ForSequenceClassification-2.5": ("Qwen2ForSequenceClassification", {"num_labels": 1}, "qwen2_5"),
    "tiny-Qwen3ForCausalLM": ("Qwen3ForCausalLM", {}, "qwen3"),
    "tiny-Qwen3ForSequenceClassification": ("Qwen3ForSequenceClassification", {"num_labels": 1}, "qwen3"),
    "tiny-Qwen3MoeForCausalLM": ("Qwen3MoeForCausalLM", EXPERTS, "qwen3"),
    "tiny-LlamaForCausalLM-3.2": ("LlamaForCausalLM", {}, "llama3_2"),
    "tiny-LlamaForSequenceClassification-3.2": ("LlamaForSequenceClassification", {"num_labels": 1}, "llama3_2"),
    "tiny-MistralForCausalLM-0.2": ("MistralForCausalLM", {}, "qwen2_5"),
    "tiny-Gemma2ForCausalLM": ("Gemma2ForCausalLM", {"head_dim": 2}, "gemma"),
    "tiny-Cohere2ForCausalLM": ("Cohere2ForCausalLM", {}, "cohere2"),
}


def zen() -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    return codecs.decode(this.s, "rot13").strip().split("\n")[2:]


def make_tokenizer(template: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        zen(), trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    file = Path(trl.__file__).with_name("chat_templates") / f"{template}.jinja"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=file.read_text(encoding="utf-8"),
    )


def make_model(folder: Path, architecture: str, changes: dict, template: str) -> None:
    tokenizer = make_tokenizer(template)
    cls = getattr(transformers, architecture)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = cls.config_class(vocab_size=len(tokenizer), **(SIZE | ends | changes))
    torch.manual_seed(0)
    model = cls(config).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # so that gradients are not lost in rounding
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_texts(folder: Path) -> None:
    """Beginnings of sentences, 6 to train on (the Hub's has 17) and 2 to test, as a local data set with two of its configurations."""
    prompts = [" ".join(line.split()[: max(1, len(line.split()) // 2)]) for line in zen()]
    rows: dict[str, list[dict]] = {
        "standard_prompt_only": [{"prompt": prompt} for prompt in prompts],
        "conversational_prompt_only": [{"prompt": [{"role": "user", "content": prompt}]} for prompt in prompts],
    }
    folder.mkdir(parents=True)
    card = ["---", "configs:"]
    for config, own in rows.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, part in (("train", own[:6]), ("test", own[17:])):
            (folder / f"{config}_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
            card += [f"  - split: {split}", f"    path: {config}_{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


def make_all(folder: Path) -> dict[str, str]:
    """Everything under `folder`; returns what could not be made, with the reason."""
    make_texts(folder / OWNER / "zen")
    failed = {}
    for name, parts in MODELS.items():
        try:
            make_model(folder / OWNER / name, *parts)
        except Exception as error:  # noqa: BLE001 - another version's configuration may refuse a size: its tests are skipped
            failed[name] = f"{type(error).__name__}: {error}"
    return failed
