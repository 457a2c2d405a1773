"""Small models of three families with random weights, and prompts longer than SALE's shortest."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

import mimo_hf

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
MIN = 256


@pytest.fixture(scope="session")
def make_model():
    """A model of a family in eval mode. Large queries and keys, so that some tiles matter and others do not."""
    mimo_hf.register()

    def make(family="llama", **settings):
        config_class, model_class = FAMILIES[family]
        sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 4096}
        torch.manual_seed(0)
        model = model_class(config_class(**sizes | heads | settings)).eval()
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.q_proj.weight *= 12
                layer.self_attn.k_proj.weight *= 12
        return model

    return make


@pytest.fixture(scope="session")
def prompt():
    def make(rows, length, seed=0):
        return torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(seed))

    return make
