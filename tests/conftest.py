"""Tiny untrained checkpoints with a byte-level tokenizer, as folders; a Python that starts at once; tests in several processes."""

import os
from pathlib import Path

import pytest

from ._warm import WarmPython

TINY = {
    "vocab_size": 257,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 2,
    "layer_types": ["full_attention", "sliding_attention"],
    "mlp_layer_types": ["dense", "sparse"],
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "max_position_embeddings": 512,
    "num_mtp_layers": 3,
    "bos_token_id": None,
    "eos_token_id": 256,
    "initializer_range": 0.5,
}


def make_tokenizer():
    """One token a byte: `!` is 0, `a` is 64."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bytes_ = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=bytes_, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def make_checkpoint(folder: Path, constant: bool = False, **changes) -> Path:
    """Random weights; `constant`: the trunk and its heads find all tokens equally likely, so that `!` always wins."""
    import torch

    from mimo_hf import MiMoV2FlashConfig, MiMoV2FlashForCausalLM

    torch.manual_seed(0)
    model = MiMoV2FlashForCausalLM(MiMoV2FlashConfig(**(TINY | changes)))
    tokenizer = make_tokenizer()
    if constant:
        for norm in [model.model.norm, *(head.final_layernorm for head in model.mtp_heads)]:
            torch.nn.init.zeros_(norm.weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory) -> Path:
    """Drafts are almost never right."""
    return make_checkpoint(tmp_path_factory.mktemp("random") / "tiny-random")


@pytest.fixture(scope="session")
def constant_checkpoint(tmp_path_factory) -> Path:
    """Continues any text with `!`, and every draft is right."""
    return make_checkpoint(tmp_path_factory.mktemp("constant") / "tiny-constant", constant=True)


@pytest.fixture(scope="session")
def headless_checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("headless") / "tiny-headless", num_mtp_layers=0)


@pytest.fixture(scope="session")
def warm_python():
    """Runs scripts that need torch, transformers and TRL without the ten seconds that their import takes."""
    warm = WarmPython("trl.trainer.grpo_trainer", "trl.trainer.sft_trainer", "transformers.models.auto.modeling_auto")
    yield warm
    warm.close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getoption("dist") != "loadfile":
        return None
    from ._workers import Scheduler

    return Scheduler(config, log)


def pytest_collection_modifyitems(items):
    if "PYTEST_XDIST_WORKER" in os.environ:
        from ._workers import longest_first

        longest_first(items)


@pytest.fixture
def _no_colour_settings(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
