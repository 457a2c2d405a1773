"""Decoding with HySparse: caches of every kind, padding, packed documents, and the bytes that a cache holds."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from mimo_hf import HySparseCache
from mimo_hf.modeling.transformers_versions import CACHE

PROMPT = {"do_sample": False, "max_new_tokens": 24, "pad_token_id": 0}
SWITCHES = [{}, {"swa_shares_kv": True}, {"use_swa_branch": False}, {"use_sparse_branch": False}]


@pytest.mark.parametrize("implementation", ["hysparse_chunked", "eager", "mimo_sink"])
@pytest.mark.parametrize("step", [1, 7, 18])
def test_steps_of_any_size_give_the_logits_of_one_pass(step, implementation, small_model, tokens):
    model, ids = small_model(), tokens(2, 54)  # past the window (5), many blocks (4) and the selection (12)
    model.set_attn_implementation(implementation)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        whole = model(ids).logits
        parts = [model(part, past_key_values=cache).logits for part in ids.split(step, dim=1)]
    assert_close(torch.cat(parts, dim=1), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [2, 19, 20, 21, 100])
def test_windows_at_the_edges_of_a_context_decode_like_one_pass(window, small_model, tokens):
    """The shortest that caches honour, and one short of, as long as, and longer than the context of 20 tokens."""
    model, ids = small_model(sliding_window=window), tokens(2, 20)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        whole = model(ids).logits
        parts = [model(part, past_key_values=cache).logits for part in ids.split(1, dim=1)]
    assert_close(torch.cat(parts, dim=1), whole, atol=1e-12, rtol=0)
    expected = model.generate(ids, use_cache=False, **PROMPT)
    for options in ({"use_cache": True}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(ids, **options, **PROMPT), expected)


@pytest.mark.parametrize("changes", SWITCHES)
@pytest.mark.parametrize("options", [{"use_cache": True}, {"cache_implementation": "static"}, {"num_beams": 3}])
def test_generation_with_a_cache_is_generation_without(options, changes, small_model, tokens):
    model, ids = small_model(**changes), tokens(2, 20)
    without = {key: value for key, value in options.items() if key == "num_beams"}
    expected = model.generate(ids, use_cache=False, **without, **PROMPT)
    assert torch.equal(model.generate(ids, **options, **PROMPT), expected)


@pytest.mark.parametrize("changes", SWITCHES)
@pytest.mark.parametrize("drafts", ["model", "prompt"])
def test_drafts_that_are_taken_back_change_no_token(drafts, changes, small_model, tokens):
    model, ids = small_model(**changes), tokens(1, 20)
    options = {"assistant_model": small_model(seed=5)} if drafts == "model" else {"prompt_lookup_num_tokens": 3}
    assert torch.equal(model.generate(ids, **options, **PROMPT), model.generate(ids, **PROMPT))


@pytest.mark.parametrize("implementation", ["hysparse_chunked", "eager", "mimo_sink"])
def test_a_left_padded_row_is_the_row_alone(implementation, small_model, tokens):
    model, ids = small_model(), tokens(3, 40)
    model.set_attn_implementation(implementation)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0  # no multiple of a block
    mask[2, :39] = 0
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
        assert_close(logits[0], model(ids[:1]).logits[0], atol=1e-12, rtol=0)
        assert_close(logits[1, 7:], model(ids[1:2, 7:]).logits[0], atol=1e-12, rtol=0)
        assert_close(logits[2, 39:], model(ids[2:, 39:]).logits[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}])
def test_a_left_padded_batch_generates_what_its_rows_do(options, small_model, tokens):
    model, ids = small_model(), tokens(2, 20)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    together = model.generate(ids, attention_mask=mask, **options, **PROMPT)
    assert torch.equal(together[:1], model.generate(ids[:1], **PROMPT))
    assert torch.equal(together[1:, 7:], model.generate(ids[1:, 7:], **PROMPT))


def test_padding_on_the_right_changes_nothing_before_it(small_model, tokens):
    model, ids = small_model(), tokens(1, 40)
    mask = torch.ones_like(ids)
    mask[0, 30:] = 0
    with torch.no_grad():
        padded = model(ids, attention_mask=mask).logits[:, :30]
        assert_close(padded, model(ids[:, :30]).logits, atol=1e-12, rtol=0)


def test_a_row_of_padding_alone_is_finite(small_model, tokens):
    model, ids = small_model(use_sparse_sink=False, use_swa_sink=False), tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[1] = 0
    for length in (40, 3):
        logits = model(ids[:, :length], attention_mask=mask[:, :length]).logits
        logits.sum().backward()
        assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_no_tokens_give_no_logits(small_model, tokens):
    model, ids = small_model(), tokens(1, 12)
    cache = HySparseCache(model.config)
    with torch.no_grad():
        assert model(ids[:, :0], past_key_values=cache).logits.shape == (1, 0, 50)
        assert_close(model(ids, past_key_values=cache).logits, model(ids).logits)


def test_a_cache_that_was_reset_starts_anew(small_model, tokens):
    model, ids = small_model(), tokens(1, 30)
    cache = HySparseCache(model.config)
    with torch.no_grad():
        first = model(ids, past_key_values=cache).logits
        cache.reset()
        assert torch.equal(model(ids, past_key_values=cache).logits, first)


def test_a_cache_that_was_cropped_goes_on_as_if_nothing_had_been(small_model, tokens):
    model, ids = small_model(), tokens(1, 40)
    cache = HySparseCache(model.config)
    cache.activate_past_recording()
    with torch.no_grad():
        model(ids[:, :30], past_key_values=cache)
        cache.crop(-8)
        rest = model(ids[:, 22:], past_key_values=cache).logits
        assert_close(rest, model(ids).logits[:, 22:], atol=1e-12, rtol=0)


# Packed documents


def test_packed_documents_do_not_see_each_other(small_model, tokens):
    model, ids = small_model(), tokens(2, 40)
    lengths = [(13, 20, 7), (40,)]
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    with torch.no_grad():
        logits = model(ids, position_ids=positions).logits
        first = 0
        for length in lengths[0]:
            alone = model(ids[:1, first : first + length]).logits
            assert_close(logits[:1, first : first + length], alone, atol=1e-12, rtol=0)
            first += length
        assert_close(logits[1:], model(ids[1:]).logits, atol=1e-12, rtol=0)


def test_packed_documents_train_as_rows_do(small_model, tokens):
    model, ids = small_model(), tokens(1, 40)
    positions = torch.cat([torch.arange(25), torch.arange(15)])[None]
    model(ids, position_ids=positions).logits.square().sum().backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for part in ids.split([25, 15], dim=1):
        model(part).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert_close(packed[name], parameter.grad)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"output_hidden_states": True}, "output_hidden_states"), ({"past_key_values": True}, CACHE)],
)
def test_what_packed_documents_cannot_give_is_refused(options, name, small_model, tokens):
    model, ids = small_model(), tokens(1, 10)
    if "past_key_values" in options:
        options = {"past_key_values": HySparseCache(model.config)}
    with pytest.raises(ValueError, match=f"`{name}` must not go with packed documents"):
        model(ids, position_ids=torch.arange(10)[None] % 5, **options)


# Bytes


def cache_bytes(config, batch, length, width, element=8):
    """What transformers' sliding layers keep is a window less one."""
    sizes = []
    for layer_type in config.layer_types:
        kept = length if layer_type == "full_attention" else min(length, config.sliding_window - 1)
        sizes.append(batch * kept * config.num_key_value_heads * width * element)
    return sizes


@pytest.mark.parametrize("length", [1, 4, 5, 6, 50])
@pytest.mark.parametrize("make", [HySparseCache, lambda config: DynamicCache(config=config)])
def test_a_sparse_layer_holds_its_window_and_no_byte_more(length, make, small_model, tokens):
    model = small_model()
    cache = make(model.config)
    with torch.no_grad():
        model(tokens(2, length), past_key_values=cache)
    held = [layer.keys.untyped_storage().nbytes() + layer.values.untyped_storage().nbytes() for layer in cache.layers]
    assert held == cache_bytes(model.config, 2, length, 8 + 6)
    if isinstance(cache, HySparseCache):
        assert cache.nbytes_by_layer() == held
        assert cache.nbytes == sum(held)
        assert [cache.kv_source(layer) for layer in range(5)] == [0, 0, 0, 3, 4]


def test_bytes_after_many_single_steps_are_those_of_one_pass(small_model, tokens):
    model, ids = small_model(), tokens(1, 20)
    cache = HySparseCache(model.config)
    with torch.no_grad():
        for token in ids.split(1, dim=1):
            model(token, past_key_values=cache)
    assert cache.nbytes_by_layer() == cache_bytes(model.config, 1, 20, 14)


def test_sparse_layers_read_the_very_tensors_of_the_full_layer(monkeypatch, small_model, tokens):
    model, ids = small_model(), tokens(1, 20)
    cache = HySparseCache(model.config)
    seen = []
    for layer in (1, 2):
        attention = model.model.layers[layer].self_attn.attend_blocks
        monkeypatch.setattr(
            attention,
            "forward",
            lambda *args, forward=attention.forward: (
                seen.append((args[1].data_ptr(), args[2].data_ptr())) or forward(*args)
            ),
        )
    with torch.no_grad():
        model(ids, past_key_values=cache)
    source = cache.layers[0]
    assert seen == [(source.keys.data_ptr(), source.values.data_ptr())] * 2


@pytest.mark.parametrize("changes", [{"swa_shares_kv": True}, {"use_swa_branch": False}])
def test_sparse_layers_without_keys_of_their_own_hold_nothing(changes, small_model, tokens):
    model = small_model(**changes)
    cache = HySparseCache(model.config)
    with torch.no_grad():
        model(tokens(1, 20), past_key_values=cache)
    assert [bytes_ > 0 for bytes_ in cache.nbytes_by_layer()] == [True, False, False, True, True]
