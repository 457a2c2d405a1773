"""A tiny MiMo-V2-Flash with two MTP heads and a tokenizer, saved as a training run would leave it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mimo_hf import MiMoV2FlashConfig, MiMoV2FlashForCausalLM
from mimo_hf.hub import publish as publishing
from mimo_hf.hub.publish import publish

MODELING = Path(__file__).parents[2] / "modeling"
# The scripts that made what is bundled; behind all else, since benchmarks have names in common with examples.
sys.path.append(str(Path(__file__).parents[2] / "examples"))
TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 6,
    "max_position_embeddings": 256,
    "num_mtp_layers": 2,
    "bos_token_id": None,
}

TRAINING_RUN = {
    "command": "python examples/pretrain_mimo.py --output_dir /home/someone/runs/tiny",
    "seed": 7,
    "device": "cpu",
    "date": "2026-01-31",
    "versions": {"torch": "2.13.0", "transformers": "5.22.2"},
    "held_out_losses": {"trunk": 1.23456, "head_0": 2.5},
    "acceptance": {
        "greedy": {"acceptance_length": 2.4137, "acceptance_length_without_loops": None, "rounds": 1200},
        "sampled": {"acceptance_length": 1.5},
    },
    "acceptance_by_position": [0.75, 0.5],
    "something_else": 3,
    "history": [{"loss": 4.0}],
}


def make_model() -> MiMoV2FlashForCausalLM:
    torch.manual_seed(0)
    model = MiMoV2FlashForCausalLM(MiMoV2FlashConfig(**TINY))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    characters = sorted({*"\n ():_", *"abcdefghijklmnopqrstuvwxyz"})
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=" ")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The folder; tests read it only."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "training_run.json").write_text(json.dumps(TRAINING_RUN))
    (folder / "optimizer.pt").write_bytes(b"not to be published")
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint):
    return MiMoV2FlashForCausalLM.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def published(checkpoint, tmp_path_factory):
    """By the real thing: the process that loads it starts as any other, where the tests below take a warm one."""
    return publish(checkpoint, tmp_path_factory.mktemp("published") / "new" / "mimo-tiny")


@pytest.fixture
def _quick_loads(published, warm_python, monkeypatch):
    """The process that loads a folder is a fork in which transformers, and not mimo_hf, has been imported."""

    def run(command, cwd, env, **options):
        assert command[0] == sys.executable
        return warm_python.run(*command[1:], cwd=cwd, env=env)

    monkeypatch.setattr(publishing, "run_python", run)


@pytest.fixture
def _without_loading(monkeypatch):
    """The load in a second process takes seconds; tests about something else leave it out."""
    monkeypatch.setattr(publishing, "check_that_it_loads", lambda folder, source: {})


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
