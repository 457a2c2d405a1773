"""Dense models as HySparse: the same logits where nothing is sparse, weights where they belong, and what is refused."""

import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import mimo_hf
from mimo_hf import MiMoConfig, MiMoForCausalLM
from mimo_hf.modeling.hysparse import convert_dense

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mimo": (MiMoConfig, MiMoForCausalLM),
}
SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPARSE = {"sliding_window": 5, "sparse_block_size": 4, "sparse_topk_tokens": 12}
ROPES = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0] * 8,
        "long_factor": [1.5] * 8,
    },
    "default": {"rope_type": "default", "partial_rotary_factor": 0.5},  # Llama turns whole heads all the same
}


def make_dense(family="llama", dtype=torch.float32, attention=None, **changes):
    config_class, model_class = FAMILIES[family]
    config = config_class(**(SMALL | changes))
    torch.manual_seed(0)
    dense = model_class._from_config(config, attn_implementation=attention, dtype=dtype)
    for name, parameter in dense.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return dense.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_with_all_layers_full_the_logits_are_those_of_the_dense_model_bit_for_bit(family, dtype, tied, tokens):
    dense = make_dense(family, dtype, tie_word_embeddings=tied)
    converted = convert_dense(dense, sparse_layers_per_full=0)
    assert dense.config._attn_implementation == "sdpa"
    assert converted.dtype == dtype
    assert (converted.lm_head.weight is converted.model.embed_tokens.weight) == tied
    for length in (1, 5, 40, 300):
        ids = tokens(2, length)
        assert torch.equal(converted(ids).logits, dense(ids).logits)


@pytest.mark.parametrize("head_dim", [12, 128])
@pytest.mark.parametrize("groups", [1, 4])
@torch.no_grad()
def test_bits_stay_for_other_widths_and_groups_of_heads(head_dim, groups, tokens):
    dense = make_dense("qwen3", head_dim=head_dim, num_key_value_heads=4 // groups)
    assert torch.equal(
        convert_dense(dense, sparse_layers_per_full=0)(tokens(2, 70)).logits, dense(tokens(2, 70)).logits
    )


@pytest.mark.parametrize("rope", ROPES)
@torch.no_grad()
def test_every_rotary_embedding_is_carried_over(rope, tokens):
    dense = make_dense(rope_parameters={"rope_theta": 1e4, **ROPES[rope]})
    converted = convert_dense(dense, sparse_layers_per_full=0)
    for length in (10, 40, 100):  # within the first training length, beyond it, and beyond max_position_embeddings
        assert torch.equal(converted(tokens(1, length)).logits, dense(tokens(1, length)).logits)


@torch.no_grad()
def test_padded_rows_and_generated_tokens_are_those_of_the_dense_model(tokens):
    dense = make_dense("qwen2")
    converted = convert_dense(dense, sparse_layers_per_full=0)
    ids = tokens(3, 24)
    mask = torch.ones_like(ids)
    mask[0, :7] = mask[1, :1] = 0
    logits = [model(ids, attention_mask=mask).logits[mask == 1] for model in (dense, converted)]
    assert torch.equal(*logits)
    arguments = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(*(model.generate(ids, **arguments) for model in (dense, converted)))


@torch.no_grad()
def test_eager_agrees_bit_for_bit_and_a_filled_cache_up_to_rounding(tokens):
    dense = make_dense(attention="eager")
    converted = convert_dense(dense, sparse_layers_per_full=0)
    converted.set_attn_implementation("eager")
    assert torch.equal(converted(tokens(2, 30)).logits, dense(tokens(2, 30)).logits)
    caches = [model(tokens(2, 30), use_cache=True).past_key_values for model in (dense, converted)]
    following = tokens(2, 3, seed=2)
    logits = [
        model(following, past_key_values=cache).logits for model, cache in zip((dense, converted), caches, strict=True)
    ]
    assert_close(*logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_long_window_behind_an_open_gate_is_the_dense_layer(family, tokens):
    dense = make_dense(family, torch.float64)
    converted = convert_dense(dense, gate_bias=True, sliding_window=40, sparse_block_size=4, sparse_topk_tokens=8)
    assert converted.config.layer_types.count("sliding_attention") == 3
    for layer in (1, 2, 3):
        attention = converted.model.layers[layer].self_attn
        attention.swa_gate.bias.fill_(60.0)
        attention.sparse_gate.bias.fill_(-60.0)
    assert_close(converted(tokens(2, 40)).logits, dense(tokens(2, 40)).logits, atol=1e-9, rtol=0)


@torch.no_grad()
def test_a_selection_of_everything_reads_the_full_layers_keys(tokens):
    """Layers 0 to 3 are alike and the first three add nothing: the sparse layer 3 sees the keys that its own would be."""
    dense = make_dense("llama", torch.float64)
    layers = dense.model.layers
    for layer in (1, 2, 3):
        layers[layer].load_state_dict(layers[0].state_dict())
    for layer in (0, 1, 2):
        layers[layer].self_attn.o_proj.weight.zero_()
        layers[layer].mlp.down_proj.weight.zero_()
    converted = convert_dense(dense, sparse_block_size=4, sparse_topk_tokens=40, use_swa_branch=False)
    assert_close(converted(tokens(2, 40)).logits, dense(tokens(2, 40)).logits, atol=1e-9, rtol=0)
    converted.model.layers[0].self_attn.k_proj.weight.mul_(2)
    assert not torch.allclose(converted(tokens(2, 40)).logits, dense(tokens(2, 40)).logits, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_copied_to_where_it_was(family):
    dense = make_dense(family)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    converted = convert_dense(dense, **SPARSE)
    weights = converted.state_dict()
    expected = {name for name in before if ".mtp_layers." not in name}
    new = {
        f"model.layers.{layer}.self_attn.{name}"
        for layer in (1, 2, 3)
        for name in ("sparse_gate.weight", "swa_gate.weight", "sparse_sinks", "swa_sinks")
    }
    assert set(weights) == expected | new
    assert all(torch.equal(weights[name], before[name]) for name in expected)
    assert all(
        torch.equal(weights[name], torch.full_like(weights[name], -30.0 if "sinks" in name else 0.0)) for name in new
    )
    assert all(parameter.requires_grad for parameter in converted.parameters())
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.fill_(7.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


@pytest.mark.parametrize(("gate_bias", "window", "selected"), [(False, 0.5, 0.5), (True, 0.982, 0.018)])
def test_gates_start_alike_or_with_a_bias_towards_the_window(gate_bias, window, selected, tokens):
    converted = convert_dense(make_dense(), gate_bias=gate_bias, **SPARSE)
    attention = converted.model.layers[1].self_attn
    states = torch.randn(2, 7, 32)
    for gate, value in ((attention.swa_gate, window), (attention.sparse_gate, selected)):
        assert_close(gate(states).sigmoid(), torch.full((2, 7, 4), value), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "full"),
    [
        ({}, [0, 4]),
        ({"sparse_layers_per_full": 1}, [0, 2, 4]),
        ({"full_layers": [0, 3]}, [0, 3]),
        ({"full_layers": (3, 0, 1)}, [0, 1, 3]),
    ],
)
def test_full_layers_are_the_periodic_ones_or_those_asked_for(arguments, full):
    types = convert_dense(make_dense(), **arguments, **SPARSE).config.layer_types
    assert [layer for layer, kind in enumerate(types) if kind == "full_attention"] == full


def test_what_is_left_out_is_named(caplog):
    logging.getLogger("mimo_hf").propagate = True
    with caplog.at_level(logging.WARNING):
        convert_dense(make_dense("mimo", num_nextn_predict_layers=2), **SPARSE)
        convert_dense(make_dense("qwen2"), swa_shares_kv=True, full_layers=[0, 1, 2, 3], **SPARSE)
        convert_dense(make_dense("llama"), **SPARSE)
    mtp, keys = (record.message for record in caplog.records if "convert_dense" in record.message)
    assert "model.mtp_layers (32 weights)" in mtp
    assert sorted(name.strip() for name in keys.split(": ")[1].split(",")) == [
        f"model.layers.4.self_attn.{name}_proj.{kind}" for name in "kv" for kind in ("bias", "weight")
    ]


def test_dtypes_of_single_weights_stay():
    dense = make_dense(dtype=torch.bfloat16)
    dense.model.norm.float()
    converted = convert_dense(dense, **SPARSE)
    assert converted.model.norm.weight.dtype == torch.float32
    assert converted.model.layers[1].self_attn.swa_sinks.dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_are_converted_as_the_models_in_them(family, tmp_path, tokens):
    dense = make_dense(family, torch.bfloat16)
    dense.generation_config.max_new_tokens = 7
    dense.save_pretrained(tmp_path)
    converted = convert_dense(tmp_path, **SPARSE)
    assert converted.dtype == torch.bfloat16
    assert converted.generation_config.max_new_tokens == 7
    assert torch.equal(converted(tokens(2, 30)).logits, convert_dense(dense, **SPARSE)(tokens(2, 30)).logits)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_converted_model_is_saved_loaded_and_trained_as_any_other(family, tmp_path, tokens):
    mimo_hf.register()
    converted = convert_dense(
        make_dense(family, tie_word_embeddings=True), gate_bias=True, gate_type="elementwise", **SPARSE
    )
    converted.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(loaded(tokens(2, 30)).logits, converted(tokens(2, 30)).logits)
    loaded(tokens(2, 30), labels=tokens(2, 30)).loss.backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def windows():
    kinds = ["full_attention"] * 3 + ["sliding_attention"] * 2
    return make_dense("qwen3", use_sliding_window=True, sliding_window=8, layer_types=kinds)


def quantised():
    dense = make_dense()
    dense.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    return dense


def integers():
    dense = make_dense()
    dense.lm_head.weight = torch.nn.Parameter(torch.zeros(50, 32, dtype=torch.int8), requires_grad=False)
    return dense


def adapters():
    dense = make_dense()
    get_peft_model(dense, LoraConfig(target_modules=["q_proj"]))
    return dense


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: make_dense(mlp_bias=True), "`mlp_bias` must be False.*got True"),
        (lambda: make_dense("llama", attention_bias=True), "o_proj.bias.*attention_bias=True"),
        (lambda: make_dense("qwen3", attention_bias=True), "o_proj.bias"),
        (lambda: make_dense(attention_dropout=0.1), "`attention_dropout` must be 0.0, .*; got 0.1"),
        (windows, "`layer_types` must .*; got 'sliding_attention' in layer 3"),
        (quantised, "quantization_config"),
        (integers, "lm_head.weight.*int8"),
        (adapters, "lacks 5, .*q_proj.*merge_and_unload"),
        (lambda: make_dense().to("meta"), "must be in memory"),
        (
            lambda: GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1)),
            "`model_type` must be one of llama, qwen2, qwen3, mimo.*got 'gpt2'",
        ),
        (
            lambda: LlamaModel(LlamaConfig(**SMALL)),
            "`model` must be a LlamaForCausalLM, with its LM head; got LlamaModel",
        ),
    ],
)
def test_models_that_hysparse_cannot_represent_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        convert_dense(make(), **SPARSE)


def test_peft_models_are_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"PeftModel.*merge_and_unload"):
        convert_dense(get_peft_model(make_dense(), LoraConfig(target_modules=["q_proj"])))


@pytest.mark.parametrize(
    "fields", [{"model_type": "gemma2"}, {"model_type": "llama", "quantization_config": {"bits": 4}}]
)
def test_folders_are_refused_before_their_weights_are_read(fields, tmp_path):
    (tmp_path / "config.json").write_text(str(fields).replace("'", '"'))
    with pytest.raises(ValueError, match=r"gemma2|quantization_config"):
        convert_dense(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sparse_layers_per_full": -1}, "sparse_layers_per_full.*-1"),
        ({"full_layers": [1, 4]}, r"full_layers.*\[1, 4\]"),
        ({"full_layers": [0, 5]}, "full_layers.*1 to 4"),
        ({"sparse_topk_tokens": 100}, "sparse_topk_tokens=100"),
        ({"hidden_size": 8}, "A setting .*; got `hidden_size`"),
        ({"gate_type": "wide"}, "gate_type.*wide"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        convert_dense(make_dense(), **arguments)
