"""The bundled tiny checkpoint: small, complete, honest about its numbers, and good enough to show drafting."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

import mimo_hf
from mimo_hf.data import held_out_files

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "mimo_hf/hub/tiny/mimo-v2-flash"
PROMPT_TOKENS, NEW_TOKENS = 128, 64


@pytest.fixture(scope="module")
def run():
    return json.loads((FOLDER / "training_run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    mimo_hf.register()
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    """The middle of each of the ten longest held-out files."""
    files = sorted(held_out_files(), key=lambda path: path.stat().st_size)[-10:]
    texts = [path.read_text(encoding="utf-8") for path in files]
    return [
        tokenizer(text[len(text) // 2 :][:4000], return_tensors="pt").input_ids[:, :PROMPT_TOKENS] for text in texts
    ]


def generate(model, prompt, **kwargs):
    mask = torch.ones_like(prompt)
    return model.generate(prompt, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, **kwargs)


def test_the_folder_is_complete_and_takes_at_most_four_megabytes():
    files = {file.name: file.stat().st_size for file in FOLDER.iterdir()}
    assert set(files) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_run.json",
    }
    assert sum(files.values()) <= 4_000_000


def test_no_file_names_a_folder_of_the_machine_it_was_made_on():
    texts = [file.read_text(encoding="utf-8") for file in FOLDER.iterdir() if file.suffix != ".safetensors"]
    assert [found for text in texts for found in re.findall(r"[\"' ]/(?:home|root|tmp|Users|work|opt)\b", text)] == []


def test_weights_are_bfloat16():
    assert {tensor.dtype for tensor in load_file(FOLDER / "model.safetensors").values()} == {torch.bfloat16}


def test_every_kind_of_layer_is_there(model):
    config = model.config
    assert len(model.mtp_heads) == config.num_mtp_layers == 3
    assert set(config.layer_types) == {"full_attention", "sliding_attention"}
    assert set(config.mlp_layer_types) == {"dense", "sparse"}
    assert config.mtp_train_mode == "joint"


def test_the_tokenizer_gives_every_text_back(tokenizer):
    texts = [path.read_text(encoding="utf-8") for path in held_out_files()[:5]]
    for text in [*texts, "\t'é' 漢字 \r\n    "]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_card_is_written_from_the_training_run(run):
    import pretrain_mimo as script

    assert (FOLDER / "README.md").read_text(encoding="utf-8") == script.card(run)


def test_the_training_run_is_among_the_benchmark_results(run):
    result = ROOT / "benchmarks/results/pretrain_mimo.json"
    assert json.loads(result.read_text(encoding="utf-8")) == run


def test_the_parameter_counts_on_record_are_those_of_the_model(run, model):
    assert run["parameters"]["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert run["parameters"]["mtp_heads"] == sum(parameter.numel() for parameter in model.mtp_heads.parameters())


def test_trunk_and_heads_know_more_than_token_frequencies(run, model, prompts):
    ids = torch.cat(prompts)
    with torch.no_grad():
        logits = [model(ids).logits, *model.mtp_logits(ids)]
    for ahead, predictions in enumerate(logits, start=1):
        targets = ids[:, ahead:]
        loss = cross_entropy(predictions[:, : targets.shape[1]].flatten(0, 1), targets.flatten()).item()
        assert loss < 0.8 * run["held_out_losses"]["unigram"]


def test_drafts_leave_greedy_text_unchanged(model, prompts):
    for prompt in prompts[:2]:
        assert torch.equal(generate(model, prompt, use_mtp=True), generate(model, prompt))


def test_acceptance_length_on_held_out_files(model, prompts):
    rounds = tokens = 0
    for prompt in prompts:
        generate(model, prompt, use_mtp=True)
        rounds += model.mtp_statistics.rounds
        tokens += sum(model.mtp_statistics.accepted) + model.mtp_statistics.rounds
    assert tokens / rounds >= 2.5
