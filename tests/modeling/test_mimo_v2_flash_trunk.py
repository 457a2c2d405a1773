"""The trunk of MiMo-V2-Flash computes what transformers' own model computes from the same weights."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, StaticCache

TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=["eager", "mimo_sink"])
def model(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def upstream(model, upstream_of):
    return upstream_of(model)


def left_padded(tokens, lengths):
    """Random rows of the given lengths, padded on the left with token 0."""
    ids = tokens(len(lengths), max(lengths))
    mask = torch.tensor([[0] * (max(lengths) - length) + [1] * length for length in lengths])
    return ids * mask, mask


@torch.no_grad()
def test_full_forward(model, upstream, tokens):
    ids = tokens(3, 17)
    expected = upstream(ids).logits
    assert expected.std() > 0.1
    assert_close(model(ids).logits, expected, **TOLERANCE)


@torch.no_grad()
def test_full_forward_in_training_mode(model, upstream, tokens):
    ids = tokens(2, 11)
    expected = upstream(ids).logits
    try:
        actual = model.train()(ids).logits
    finally:
        model.eval()
    assert_close(actual, expected, **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 14, [3, 1, 4, 6], [9, 5], [2, 12]])
def test_cached_chunks(model, upstream, tokens, chunks):
    ids = tokens(2, 14)
    cache = DynamicCache(config=model.config)
    parts = [model(part, past_key_values=cache, use_cache=True).logits for part in ids.split(chunks, dim=1)]
    assert_close(torch.cat(parts, dim=1), upstream(ids).logits, **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 14, [3, 1, 4, 6], [9, 5]])
def test_static_cache_chunks(model, upstream, tokens, chunks):
    ids = tokens(2, 14)
    cache = StaticCache(config=model.config, max_cache_len=20)
    parts = [model(part, past_key_values=cache, use_cache=True).logits for part in ids.split(chunks, dim=1)]
    assert_close(torch.cat(parts, dim=1), upstream(ids).logits, **TOLERANCE)


@torch.no_grad()
def test_left_padding_changes_nothing(model, upstream, tokens):
    ids, mask = left_padded(tokens, [13, 4, 9])
    logits = model(ids, attention_mask=mask).logits
    for row, length in enumerate([13, 4, 9]):
        assert_close(logits[row, -length:], upstream(ids[row : row + 1, -length:]).logits[0], **TOLERANCE)


@torch.no_grad()
def test_packed_documents_do_not_see_each_other(model, upstream, tokens):
    ids = tokens(1, 16)
    lengths = [5, 8, 3]
    position_ids = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    logits = model(ids, position_ids=position_ids, use_cache=False).logits
    alone = [upstream(document).logits for document in ids.split(lengths, dim=1)]
    assert_close(logits, torch.cat(alone, dim=1), **TOLERANCE)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_greedy_generation(model, upstream, tokens, cache):
    ids, mask = left_padded(tokens, [9, 4])
    arguments = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = upstream.generate(ids, **arguments)
    assert len(expected[0, 9:].unique()) > 3
    assert torch.equal(model.generate(ids, cache_implementation=cache, **arguments), expected)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_experts_implementation_can_be_chosen(tiny_model, upstream_of, tokens, implementation):
    model = tiny_model()
    model.set_experts_implementation(implementation)
    assert model.config._experts_implementation == implementation
    ids = tokens(2, 9)
    assert_close(model(ids).logits, upstream_of(model)(ids).logits, **TOLERANCE)


@torch.no_grad()
def test_attention_implementation_can_be_chosen_later(tiny_model, upstream_of, tokens):
    model = tiny_model("mimo_sink")
    model.set_attn_implementation("eager")
    outputs = model(tokens(1, 7), output_attentions=True)
    # With sinks the weights of the real keys sum to less than one; only eager attention returns weights.
    assert all((weights.sum(dim=-1) < 1).all() for weights in outputs.attentions[1:3])
    assert_close(outputs.logits, upstream_of(model)(tokens(1, 7)).logits, **TOLERANCE)


def test_the_default_attention_is_mimo_sink(tiny_config):
    from mimo_hf import MiMoV2FlashForCausalLM

    assert MiMoV2FlashForCausalLM(tiny_config()).config._attn_implementation == "mimo_sink"


def test_sdpa_is_refused_and_the_remedy_named(tiny_model):
    with pytest.raises(ValueError, match="mimo_sink"):
        tiny_model("sdpa")


@torch.no_grad()
def test_without_heads_the_state_dict_is_upstreams(tiny_model, upstream_of, tokens):
    model = tiny_model(num_mtp_layers=0)
    upstream = upstream_of(model)
    assert model.state_dict().keys() == upstream.state_dict().keys()
    assert not any("mtp" in name for name in model.state_dict())
    assert_close(model(tokens(1, 9)).logits, upstream(tokens(1, 9)).logits, **TOLERANCE)


@torch.no_grad()
def test_heads_leave_the_trunk_alone(tiny_model, tokens):
    """The same trunk weights give the same bits with and without heads."""
    with_heads, without = tiny_model(), tiny_model(num_mtp_layers=0)
    without.load_state_dict({n: t for n, t in with_heads.state_dict().items() if ".mtp." not in n})
    assert torch.equal(with_heads(tokens(2, 9)).logits, without(tokens(2, 9)).logits)
