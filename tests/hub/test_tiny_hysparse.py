"""The bundled tiny HySparse: small, complete, and one whose full layer picks the block that a question is about."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import mimo_hf
from mimo_hf import HySparseCache
from mimo_hf.data import needles_in_code
from mimo_hf.hub.checkpoints import bundled

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "mimo_hf/hub/tiny/hysparse"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    mimo_hf.register()
    return AutoModelForCausalLM.from_pretrained(bundled("hysparse"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def script():
    import pretrain_hysparse

    return pretrain_hysparse


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
    assert {tensor.dtype for tensor in load_file(FOLDER / "model.safetensors").values()} == {torch.bfloat16}


def test_no_file_names_a_folder_of_the_machine_it_was_made_on():
    texts = [file.read_text(encoding="utf-8") for file in FOLDER.iterdir() if file.suffix != ".safetensors"]
    assert [found for text in texts for found in re.findall(r"[\"' ]/(?:home|root|tmp|Users|work|opt)\b", text)] == []


def test_the_card_is_written_from_the_training_run(script):
    run = json.loads((FOLDER / "training_run.json").read_text(encoding="utf-8"))
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == script.card(run)
    result = ROOT / "benchmarks/results/pretrain_hysparse.json"
    assert json.loads(result.read_text(encoding="utf-8")) == run


def test_bytes_are_their_own_tokens_and_needles_come_after_them(tokenizer):
    text = "def f(x):\n\treturn 'é漢'  # \r\n"
    assert tokenizer(text).input_ids == list(text.encode())
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer("a<k3=7>b<k3?><7>").input_ids == [97, 256 + 3 * 16 + 7, 98, 256 + 256 + 3, 256 + 256 + 16 + 7]


@pytest.mark.parametrize("length", [128, 512])
def test_the_oracle_picks_the_block_of_the_needle_and_the_answer_is_right(model, length):
    block, num_rows = model.config.sparse_block_size, 24
    right = picked = by_chance = 0.0
    for row in needles_in_code(num_rows, length=length, split="held_out", seed=5):
        ids = torch.tensor([row["input_ids"]])
        cache = HySparseCache(model.config, record_selection=True)
        with torch.no_grad():
            answers = model(ids, past_key_values=cache).logits.argmax(-1)[0]
        for question, needle in zip(row["questions"], row["needles"], strict=True):
            right += int(answers[question]) == row["input_ids"][question + 1]
            groups = cache.last_selection[0][0, :, question].tolist()
            picked += sum(needle // block in blocks for blocks in groups) / len(groups)
            by_chance += min(model.config.topk_blocks / (question // block + 1), 1)
    questions = 4 * num_rows
    assert right / questions > 0.9
    assert picked / questions > 0.9
    assert by_chance / questions < 0.35


def test_the_answer_needs_the_needle(model, tokenizer):
    code = "import os\n\n\nclass Cursor:\n    '''Moves over rows of a table.'''\n\n    def __init__(self, rows):\n"
    for key, value in ((3, 7), (12, 0), (0, 15)):
        for place in (0, 40, len(code)):
            ids = tokenizer(f"{code[:place]}<k{key}={value}>{code[place:]}<k{key}?>", return_tensors="pt").input_ids
            assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == f"<{value}>"


def test_generate_answers_with_the_selection_of_every_step(model, tokenizer):
    ids = tokenizer("x = 1\n" * 9 + "<k5=11>" + "y = 2\n" * 30 + "<k5?>", return_tensors="pt").input_ids
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, pad_token_id=0)
    assert tokenizer.decode(output[0, -1]) == "<11>"
