"""The memory formula: the sizes that the papers print, sums over layers, and the bytes of the real cache."""

from types import SimpleNamespace

import pytest
import torch

from mimo_hf.modeling.hysparse import HySparseCache, HySparseConfig, HySparseForCausalLM
from mimo_hf.modeling.hysparse.memory import (
    index_bytes,
    kv_bytes,
    kv_bytes_between_steps,
    memory_table,
    score_bytes,
)

MILLION = 1 << 20


def shape(full_layers=5, kv_heads=4, swa_kv_heads=4, head_dim=192, v_head_dim=128):
    """49 layers as in arXiv 2609.26368, section 4.2."""
    return SimpleNamespace(
        num_hidden_layers=49,
        layer_types=["full_attention"] * full_layers + ["sliding_attention"] * (49 - full_layers),
        num_key_value_heads=kv_heads,
        swa_num_key_value_heads=swa_kv_heads,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        sliding_window=128,
        sparse_block_size=64,
        sparse_topk_tokens=1024,
        use_swa_branch=True,
        swa_shares_kv=False,
    )


@pytest.mark.parametrize(
    ("config", "system", "full_layers", "printed"),
    [
        (shape(), "hysparse", None, "6.72"),
        (shape(), "hybrid_swa", 9, "12.09"),
        (shape(9), "hybrid_swa", None, "12.09"),
        (shape(kv_heads=1, swa_kv_heads=1, head_dim=256, v_head_dim=256), "hysparse", None, "2.69"),
    ],
)
def test_sizes_of_arxiv_2609_26368_at_a_million_tokens_in_fp8(config, system, full_layers, printed):
    size = kv_bytes(config, MILLION, system, bytes_per_element=1, full_layers=full_layers)
    assert f"{size / 1e9:.2f}" == printed


@pytest.mark.parametrize(("context", "printed"), [(128, "1.0"), (4096, "7.7"), (32_768, "9.5"), (1 << 34, "9.8")])
def test_full_attention_over_hysparse_in_the_80b_shape(context, printed):
    (row,) = memory_table(HySparseConfig.from_preset("hysparse-80b-a3b"), [context])
    assert f"{row['full_over_hysparse']:.1f}" == printed
    assert row["full_over_hysparse"] < 49 / 5 or context == 1 << 34


@pytest.mark.parametrize("system", ["full", "hybrid_swa", "hysparse"])
@pytest.mark.parametrize("context", [0, 1, 5, 8, 9, 100])
def test_a_sum_over_layers_gives_the_same(system, context):
    config = HySparseConfig(
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        swa_num_key_value_heads=4,
        head_dim=6,
        v_head_dim=10,
        sparse_layers_per_full=2,
        sliding_window=8,
        sparse_block_size=4,
        sparse_topk_tokens=8,
    )
    expected = {"paper": 0, "between": 0}
    for layer_type in config.layer_types:
        is_full = system == "full" or layer_type == "full_attention"
        for convention, window in (("paper", 8), ("between", 7)):
            tokens, heads = (context, 2) if is_full else (min(context, window), 4)
            expected[convention] += 3 * 2 * tokens * heads * 16
    assert kv_bytes(config, context, system, batch_size=3) == expected["paper"]
    assert kv_bytes_between_steps(config, context, system, batch_size=3) == expected["between"]


@pytest.mark.parametrize("switch", [{"use_swa_branch": False}, {"swa_shares_kv": True}])
def test_sparse_layers_without_keys_of_their_own_hold_nothing(switch):
    config = HySparseConfig(num_hidden_layers=8, **switch)
    assert kv_bytes(config, 500) == config.layer_types.count("full_attention") * 500 * 8 * 256 * 2
    assert kv_bytes(config, 500, "hybrid_swa") > kv_bytes(config, 500)


def test_transients_are_those_of_the_tensors():
    config = HySparseConfig(num_hidden_layers=4)
    scores = torch.empty(2, 8, 1000, 16)  # batch, key-value heads, queries, blocks of 64
    indices = torch.empty(2, 8, 1000, 16, dtype=torch.int32)
    assert score_bytes(config, 1000, batch_size=2) == scores.nbytes
    assert score_bytes(config, 1000, 1, batch_size=2) == scores[:, :, :1].nbytes
    assert score_bytes(config, 1000, 5000, batch_size=2) == scores.nbytes
    assert index_bytes(config, 1000, batch_size=2) == indices.nbytes


@pytest.mark.parametrize("context", [1, 7, 8, 9, 40])
@pytest.mark.parametrize("system", ["full", "hybrid_swa", "hysparse"])
def test_the_real_cache_holds_what_the_formula_says(system, context):
    fields = {"full": {"sparse_layers_per_full": 0}, "hybrid_swa": {"use_sparse_branch": False}, "hysparse": {}}[
        system
    ]
    shared = {
        "vocab_size": 11,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "v_head_dim": 12,
        "sparse_layers_per_full": 2,
        "sliding_window": 8,
        "sparse_block_size": 4,
        "sparse_topk_tokens": 8,
    }
    config = HySparseConfig(**{**shared, **fields})
    cache = HySparseCache(config)
    with torch.no_grad():
        HySparseForCausalLM(config)(torch.randint(11, (2, context)), past_key_values=cache)
    formula = kv_bytes_between_steps(HySparseConfig(**shared), context, system, batch_size=2, bytes_per_element=4)
    assert cache.nbytes == formula


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"context": -1}, "`context` must be 0 or more"),
        ({"context": 1, "system": "dense"}, "`system` must be one of full, hybrid_swa, hysparse; got 'dense'"),
        ({"context": 1, "full_layers": 50}, "`full_layers` must lie between 1 and the 49"),
        ({"context": 1, "full_layers": 0}, "`full_layers` must lie between 1 and the 49"),
    ],
)
def test_what_can_not_be_is_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        kv_bytes(shape(), **arguments)
