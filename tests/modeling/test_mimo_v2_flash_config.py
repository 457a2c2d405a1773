"""Every field of the official config.json is honoured or refused, and nothing drifts over saving and loading."""

import json

import pytest
from transformers import AutoConfig

import mimo_hf
from mimo_hf import MiMoV2FlashConfig, MiMoV2FlashForCausalLM

# The shape of the official config.json, at tiny sizes and with values that are not the defaults of transformers.
OFFICIAL = {
    "architectures": ["MiMoV2FlashForCausalLM"],
    "model_type": "mimo_v2_flash",
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 4,
    "hybrid_layer_pattern": [1, 0, 0, 1],
    "hybrid_block_size": None,
    "moe_layer_freq": [1, 0, 1, 0],
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "v_head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 24,
    "swa_v_head_dim": 8,
    "rope_theta": 1234.0,
    "swa_rope_theta": 99.0,
    "rope_scaling": None,
    "partial_rotary_factor": 0.5,
    "layernorm_epsilon": 0.03,
    "sliding_window": 6,
    "sliding_window_size": 6,
    "attention_chunk_size": 6,
    "attention_value_scale": 0.5,
    "attention_projection_layout": "split",
    "add_full_attention_sink_bias": False,
    "add_swa_attention_sink_bias": True,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_shared_experts": None,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "routed_scaling_factor": None,
    "num_nextn_predict_layers": 3,
    "tie_word_embeddings": False,
}
KINDS = {"full_attention": 0, "sliding_attention": 1, "dense": 0, "sparse": 1}


@pytest.fixture
def folder(tmp_path):
    """`folder(**changes)`: a folder with an official config.json; a change to `...` leaves the field out."""

    def write(**changes):
        fields = {name: value for name, value in (OFFICIAL | changes).items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        return tmp_path

    return write


def test_official_fields_are_honoured(folder):
    config = MiMoV2FlashConfig.from_pretrained(folder())
    assert [KINDS[kind] for kind in config.layer_types] == OFFICIAL["hybrid_layer_pattern"]
    assert [KINDS[kind] for kind in config.mlp_layer_types] == OFFICIAL["moe_layer_freq"]
    assert config.rope_parameters == {
        "full_attention": {"rope_type": "default", "rope_theta": 1234.0, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 99.0, "partial_rotary_factor": 0.5},
    }
    assert config.rms_norm_eps == 0.03
    assert config.sliding_window == 7  # six previous positions and the query
    assert config.num_mtp_layers == 3
    assert config.routed_scaling_factor == 1.0


def test_the_model_is_built_as_the_official_fields_say(folder):
    model = MiMoV2FlashForCausalLM(MiMoV2FlashConfig.from_pretrained(folder()))
    layers = model.model.layers
    assert [layer.self_attn.sinks is not None for layer in layers] == [True, False, False, True]
    assert [layer.self_attn.sliding_window for layer in layers] == [7, None, None, 7]
    assert [layer.self_attn.k_proj.out_features // 24 for layer in layers] == [2, 1, 1, 2]
    assert [hasattr(layer.mlp, "experts") for layer in layers] == [True, False, True, False]
    assert {layer.input_layernorm.variance_epsilon for layer in layers} == {0.03}
    # 12 of 24 channels are rotated: theta ** (-2m / 12)
    frequencies = model.model.rotary_emb
    assert frequencies.full_attention_inv_freq.tolist() == pytest.approx([1234.0 ** (-m / 6) for m in range(6)])
    assert frequencies.sliding_attention_inv_freq.tolist() == pytest.approx([99.0 ** (-m / 6) for m in range(6)])
    for head in model.mtp_heads:
        assert head.self_attn.sliding_window == 7
        assert head.self_attn.k_proj.out_features == 2 * 24
        assert head.self_attn.sinks.shape == (4,)
        assert head.hnorm.variance_epsilon == 0.03
    heads_frequencies = model.model.mtp.rotary_emb.sliding_attention_inv_freq
    assert heads_frequencies.tolist() == pytest.approx([99.0 ** (-m / 6) for m in range(6)])


def test_without_changes_the_official_defaults_are_built():
    config = MiMoV2FlashConfig()
    global_layers = [layer for layer, kind in enumerate(config.layer_types) if kind == "full_attention"]
    assert global_layers == [0, 5, 11, 17, 23, 29, 35, 41, 47]
    assert config.mlp_layer_types == ["dense"] + ["sparse"] * 47
    assert config.sliding_window == 129
    assert config.num_mtp_layers == 0


def test_block_size_stands_for_a_pattern(folder):
    config = MiMoV2FlashConfig.from_pretrained(folder(hybrid_layer_pattern=None, hybrid_block_size=2))
    assert [KINDS[kind] for kind in config.layer_types] == [1, 0, 1, 0]


@pytest.mark.parametrize(("window", "size", "built"), [(6, 6, 7), (..., 6, 7), (6, ..., 6), (7, 6, 7)])
def test_window_counts_the_query(folder, window, size, built):
    config = MiMoV2FlashConfig.from_pretrained(folder(sliding_window=window, sliding_window_size=size))
    assert config.sliding_window == built


def test_saving_and_loading_changes_nothing(folder, tmp_path):
    config = MiMoV2FlashConfig.from_pretrained(folder())
    for generation in range(3):
        config.save_pretrained(tmp_path / str(generation))
        config = MiMoV2FlashConfig.from_pretrained(tmp_path / str(generation))
        assert config.sliding_window == 7
    texts = [(tmp_path / str(generation) / "config.json").read_text() for generation in range(3)]
    assert texts[0] == texts[1] == texts[2]
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 99.0


def test_upstream_builds_the_same_trunk_from_a_saved_config(folder, tmp_path):
    from transformers.models.mimo_v2_flash import MiMoV2FlashConfig as UpstreamConfig

    config = MiMoV2FlashConfig.from_pretrained(folder())
    config.save_pretrained(tmp_path / "saved")
    upstream = UpstreamConfig.from_pretrained(tmp_path / "saved")
    for field in ("layer_types", "mlp_layer_types", "rope_parameters", "rms_norm_eps", "sliding_window"):
        assert getattr(upstream, field) == getattr(config, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("swa_num_key_value_heads", 4),
        ("swa_num_attention_heads", 8),
        ("swa_head_dim", 16),
        ("swa_v_head_dim", 16),
        ("add_full_attention_sink_bias", True),
        ("add_swa_attention_sink_bias", False),
        ("n_shared_experts", 1),
        ("scoring_func", "softmax"),
        ("topk_method", "greedy"),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}),
        ("hybrid_layer_pattern", [1, 0, 0]),
        ("hybrid_layer_pattern", [1, 0, 2, 0]),
        ("moe_layer_freq", [1, 0, 1]),
        ("moe_layer_freq", 1),
        ("num_nextn_predict_layers", -1),
    ],
)
def test_what_can_not_be_built_is_refused_by_name(folder, field, value):
    with pytest.raises(ValueError, match=f"{field}|num_mtp_layers"):
        MiMoV2FlashConfig.from_pretrained(folder(**{field: value}))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"layer_types": ["full_attention"] * 4}, "hybrid_layer_pattern"),
        ({"mlp_layer_types": ["dense"] * 4}, "moe_layer_freq"),
        ({"num_mtp_layers": 2}, "num_nextn_predict_layers"),
        ({"rms_norm_eps": 1e-6}, "layernorm_epsilon"),
        ({"sliding_window": 4}, "sliding_window_size"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 7.0}}}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1234.0}}, "rope_parameters"),
    ],
)
def test_contradictions_are_refused_and_both_sides_named(folder, fields, named):
    with pytest.raises(ValueError, match=named) as refusal:
        MiMoV2FlashConfig.from_pretrained(folder(**fields))
    assert next(iter(fields)) in str(refusal.value)


def test_rope_parameters_are_completed_by_official_fields(folder):
    config = MiMoV2FlashConfig.from_pretrained(
        folder(rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1234.0}})
    )
    assert config.rope_parameters["full_attention"]["partial_rotary_factor"] == 0.5
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 99.0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_mtp_layers": -1}, "num_mtp_layers"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"sliding_window": 1}, "sliding_window"),
        ({"sliding_window": -3}, "sliding_window"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"num_key_value_heads": 4}, "num_key_value_heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"num_experts_per_tok": 7}, "num_experts_per_tok"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"mlp_layer_types": ["dense"]}, "mlp_layer_types"),
        ({"mtp_hidden_source": "prenorm"}, "mtp_hidden_source"),
        ({"mtp_train_mode": "head"}, "mtp_train_mode"),
        ({"mtp_loss_weight": -0.1}, "mtp_loss_weight"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(tiny_config, changes, named):
    with pytest.raises(ValueError, match=named):
        tiny_config(**changes)


@pytest.mark.parametrize(("field", "value"), [("num_mtp_layers", -1), ("sliding_window", 0)])
def test_overrides_at_loading_are_checked_too(tiny_model, tmp_path, field, value):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=field):
        MiMoV2FlashForCausalLM.from_pretrained(tmp_path, **{field: value})


@pytest.mark.parametrize(
    "later",
    [
        {"attention_projection_layout": "fused_qkv"},
        {"vision_config": {"depth": 2}},
        {"audio_config": {"depth": 2}},
    ],
)
def test_later_families_are_refused_with_their_name(folder, later):
    with pytest.raises(ValueError, match=r"MiMo-V2\.5") as refusal:
        MiMoV2FlashConfig.from_pretrained(folder(**later))
    assert next(iter(later)) in str(refusal.value)
    assert "trust_remote_code" in str(refusal.value)


def test_the_later_model_type_is_refused_through_auto_config(folder):
    mimo_hf.register()
    mimo_hf.register()
    with pytest.raises(ValueError, match=r"MiMo-V2\.5") as refusal:
        AutoConfig.from_pretrained(folder(model_type="mimo_v2", architectures=["MiMoV2ForCausalLM"]))
    assert "mimo_v2" in str(refusal.value)


def test_auto_config_gives_ours_after_register(folder):
    mimo_hf.register()
    config = AutoConfig.from_pretrained(folder())
    assert type(config) is MiMoV2FlashConfig
    assert config.num_mtp_layers == 3


def test_heads_are_dense_sliding_window_layers(tiny_config):
    heads = tiny_config().get_mtp_config()
    assert heads.layer_types == ["sliding_attention"] * 3
    assert heads.mlp_layer_types == ["dense"] * 3
    assert heads.num_hidden_layers == 3
