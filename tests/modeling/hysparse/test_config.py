"""HySparse's configuration: layouts, presets, and values that can't be."""

import json

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

import mimo_hf
from mimo_hf import HySparseConfig, HySparseForCausalLM


@pytest.mark.parametrize(
    ("layers", "sparse", "full"),
    [
        (49, 11, [0, 12, 24, 36, 48]),
        (36, 3, [*range(0, 36, 4), 35]),
        (5, 3, [0, 4]),
        (4, 0, [0, 1, 2, 3]),
        (1, 3, [0]),
    ],
)
def test_full_layers_stand_at_every_n_plus_first_and_at_the_end(layers, sparse, full):
    config = HySparseConfig(num_hidden_layers=layers, sparse_layers_per_full=sparse)
    assert [i for i, name in enumerate(config.layer_types) if name == "full_attention"] == full
    assert config.kv_source_layers == [max(f for f in full if f <= i) for i in range(layers)]


def test_the_last_full_layer_serves_nobody():
    config = HySparseConfig(num_hidden_layers=5, sparse_layers_per_full=3)
    assert [config.serves_sparse_layers(layer) for layer in (0, 4)] == [True, False]
    assert not HySparseConfig(num_hidden_layers=5, use_sparse_branch=False).serves_sparse_layers(0)


@pytest.mark.parametrize(("name", "parameters", "full"), [("hysparse-7b", 7.5e9, 10), ("hysparse-80b-a3b", 80e9, 5)])
def test_a_preset_is_a_model_of_its_size(name, parameters, full):
    config = HySparseConfig.from_preset(name)
    with torch.device("meta"):
        model = HySparseForCausalLM(config)
    assert model.num_parameters() == pytest.approx(parameters, rel=0.05)
    assert config.layer_types.count("full_attention") == full
    assert config.topk_blocks == 16
    assert config.rope_parameters["rope_theta"] == 640_000


def test_a_preset_takes_other_fields():
    assert HySparseConfig.from_preset("hysparse-7b", sliding_window=64).sliding_window == 64
    with pytest.raises(ValueError, match=r"`name` must be one of hysparse-7b, hysparse-80b-a3b.*; got 'hysparse-1b'"):
        HySparseConfig.from_preset("hysparse-1b")


def test_a_saved_configuration_comes_back_as_it_was(tmp_path):
    mimo_hf.register()
    config = HySparseConfig(num_hidden_layers=6, sparse_topk_tokens=128, gate_type="elementwise", rope_theta=1e4)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert HySparseConfig.from_pretrained(tmp_path, sliding_window=7).sliding_window == 7


def test_selection_of_tokens_is_blocks_of_one():
    config = HySparseConfig(selection_granularity="token", forced_local_tokens=128)
    assert (config.sparse_block_size, config.forced_local_blocks, config.topk_blocks) == (1, 128, 1024)


IMPOSSIBLE = [
    ({"sparse_topk_tokens": 100}, r"`sparse_topk_tokens=100` must be a positive multiple of `sparse_block_size=64`"),
    ({"sparse_topk_tokens": 0}, "`sparse_topk_tokens=0` must be a positive multiple"),
    ({"sparse_block_size": 0}, "`sparse_block_size=0`"),
    ({"layer_types": ["sliding_attention"] * 36}, r"`layer_types\[0\]` must be 'full_attention'"),
    ({"layer_types": ["full_attention"] * 3}, "`layer_types` must name each of the 36 layers"),
    ({"num_key_value_heads": 5}, "`num_attention_heads=32` must be a multiple of `num_key_value_heads=5`"),
    ({"swa_num_key_value_heads": 3}, "must be a multiple of `swa_num_key_value_heads=3`"),
    ({"sliding_window": 0}, "`sliding_window` must be at least 2, as it counts the query itself; got 0"),
    ({"sliding_window": 1}, "`sliding_window` must be at least 2, as it counts the query itself; got 1"),
    ({"sparse_layers_per_full": -1}, "`sparse_layers_per_full` must be 0 or more; got -1"),
    ({"oracle_reduce": "mean"}, "`oracle_reduce` must be one of max, sum, logit_max, random, recent; got 'mean'"),
    ({"gate_type": "scalar"}, "`gate_type` must be one of headwise, elementwise; got 'scalar'"),
    ({"forced_local_blocks": 17}, "together at most the 16 blocks"),
    ({"forced_local_tokens": 8}, "must go with `selection_granularity='token'`; got 8 with blocks of 64"),
    ({"selection_granularity": "page"}, "`selection_granularity` must be 'block' or 'token'; got 'page'"),
    ({"use_swa_branch": False, "use_sparse_branch": False}, "need a branch to attend with"),
    ({"swa_shares_kv": True, "use_swa_branch": False}, "got `use_swa_branch=False`"),
    ({"swa_shares_kv": True, "swa_num_key_value_heads": 4}, "must be `num_key_value_heads=8`"),
    ({"attention_dropout": 0.1}, "`attention_dropout` must be 0.0, .*; got 0.1"),
    ({"num_hidden_layers": 0}, "`num_hidden_layers` must be at least 1; got 0"),
    ({"mlp_layer_types": ["sparse"] * 36}, "`num_experts_per_tok=8` must lie between 1 and `n_routed_experts=0`"),
    (
        {"index_topk": 2048},
        "`index_topk` must not be given to HySparse, as it belongs to DeepSeek Sparse Attention; got 2048",
    ),
    ({"kv_sharing_modes": ["reuse"]}, "belongs to a model whose key-value sharing transformers arranges"),
    ({"hybrid_layer_pattern": [0, 1]}, "belongs to MiMo-V2-Flash"),
]


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE)
def test_an_impossible_configuration_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        HySparseConfig(**fields)


def test_a_field_that_is_changed_later_is_checked_when_the_model_is_built():
    config = HySparseConfig()
    config.sparse_topk_tokens = 65
    with pytest.raises(ValueError, match="`sparse_topk_tokens=65`"):
        HySparseForCausalLM(config)


def test_the_configuration_of_another_system_is_refused(tmp_path):
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`model_type` must be 'hysparse'; got 'llama'.*convert_dense"):
        HySparseConfig.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"
