"""The project's own models in its trainers: two steps, with and without an adapter."""

import pytest
import torch
from peft import LoraConfig

from mimo_hf import (
    HySparseConfig,
    HySparseForCausalLM,
    MiMoConfig,
    MiMoForCausalLM,
    MiMoV2FlashConfig,
    MiMoV2FlashForCausalLM,
)

SHAPE = {
    "vocab_size": 18,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
MODELS = {
    "hysparse": (
        HySparseForCausalLM,
        HySparseConfig,
        {"sliding_window": 4, "sparse_block_size": 2, "sparse_topk_tokens": 4},
    ),
    "mimo": (MiMoForCausalLM, MiMoConfig, {}),
    "mimo_v2_flash": (
        MiMoV2FlashForCausalLM,
        MiMoV2FlashConfig,
        {
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "mlp_layer_types": ["dense", "sparse", "dense"],
            "head_dim": 24,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "sliding_window": 4,
            "num_mtp_layers": 1,
        },
    ),
}


@pytest.mark.parametrize("adapted", [False, True], ids=["all weights", "adapter"])
@pytest.mark.parametrize("name", MODELS)
def test_two_steps_change_the_weights_that_are_trained_and_no_others(name, adapted, make_trainer, weights):
    model_class, config_class, fields = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config_class(**(SHAPE | fields)))
    adapter = {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "o_proj"], exclude_modules=".*mtp.*")}
    trainer = make_trainer(model=model, dynamic_sampling=True, max_steps=2, **(adapter if adapted else {}))
    before = weights(trainer)
    trainer.train()
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())
    assert changed
    assert all("lora_" in name for name in changed) == adapted
    assert trainer.state.global_step == 2
