"""examples/pretrain_hysparse.py: one short run from the corpus to the folder that others load."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import mimo_hf

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(warm_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "result"
    options = {"--steps": 4, "--length": 48, "--needles": 3, "--batch_size": 2, "--test_rows": 4}
    arguments = [part for option in options.items() for part in option]
    run = warm_python.run(ROOT / "examples/pretrain_hysparse.py", "--output_dir", folder, *arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_run_is_on_record(folder):
    run = json.loads((folder / "training_run.json").read_text())
    assert run["command"].startswith("python examples/pretrain_hysparse.py --output_dir")
    assert run["versions"]["torch"] == torch.__version__
    assert list(run["by_length"]) == ["48", "96", "192", "384"]
    for found in [*run["by_length"].values(), *run["by_depth"].values()]:
        assert all(0 <= found[name] <= 1 for name in ("answered", "needle_block_selected", "by_chance"))
        assert 4 < found["bits_a_byte"] < 12
    card = (folder / "README.md").read_text()
    assert f"{run['parameters']:,} parameters" in card
    assert "| 384 |" in card


@pytest.mark.slow
def test_the_result_loads_in_bfloat16(folder):
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    mimo_hf.register()
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) == 256 + 16 * 16 + 16 + 16
