"""HySparse on each admitted transformers: right tokens, the cache under either name, nothing deprecated."""

import inspect
import warnings

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from mimo_hf import HySparseCache
from mimo_hf.modeling.transformers_versions import CACHE, cache_of

NAMES = ("cache", "past_key_values")


def greedy(model, text, steps):
    """The argmax of one full pass a token, without any cache."""
    text = torch.tensor([text])
    with torch.no_grad():
        for _ in range(steps):
            text = torch.cat([text, model(text, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return text[0].tolist()


@pytest.mark.parametrize("layers", [{"num_hidden_layers": 1}, {}])
def test_generated_tokens_are_those_of_full_passes(layers, small_model, tokens):
    model = small_model(**layers)
    options = {"do_sample": False, "eos_token_id": None}
    texts = [row.tolist() for row in tokens(3, 19)]
    texts[1], texts[2] = texts[1][:12], texts[2][:2]
    right = [greedy(model, text, 12) for text in texts]

    (alone,) = model.generate(torch.tensor(texts[:1]), max_new_tokens=12, **options).tolist()
    assert alone == right[0]

    padded = torch.tensor([[0] * (19 - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (19 - len(text)) + [1] * len(text) for text in texts])
    together = model.generate(padded, attention_mask=mask, max_new_tokens=12, **options).tolist()
    assert [row[19 - len(text) :] for row, text in zip(together, texts, strict=True)] == right

    drafts = small_model(seed=5, num_hidden_layers=1)
    (assisted,) = model.generate(
        torch.tensor(texts[:1]), assistant_model=drafts, max_new_tokens=12, **options
    ).tolist()
    assert assisted == right[0]


@pytest.mark.parametrize("make", [HySparseCache, lambda config: DynamicCache(config=config)])
@pytest.mark.parametrize("name", NAMES)
def test_a_cache_is_used_under_either_name(name, make, small_model, tokens):
    causal_lm, ids = small_model(), tokens(1, 30)
    for model in (causal_lm, causal_lm.model):
        cache = make(causal_lm.config)
        with torch.no_grad():
            whole = model(ids, use_cache=False)[0]
            first = model(ids[:, :20], **{name: cache})
            assert cache_of(first) is cache
            assert cache.get_seq_length() == 20
            assert_close(model(ids[:, 20:], **{name: cache})[0], whole[:, 20:], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["cache_params", "past_key_value", "state", "layer_past"])
def test_a_cache_under_a_name_that_nothing_reads_is_refused(name, small_model, tokens):
    causal_lm = small_model()
    for model in (causal_lm, causal_lm.model):
        with pytest.raises(ValueError, match=f"`{name}` must be called `{CACHE}` to be read as a cache"):
            model(tokens(1, 4), **{name: HySparseCache(causal_lm.config)})


def test_generate_goes_on_from_a_cache_under_the_name_of_this_transformers(small_model, tokens):
    model, ids = small_model(), tokens(1, 20)
    options = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
    cache = HySparseCache(model.config)
    first = model.generate(ids, **options, **{CACHE: cache})
    assert cache.get_seq_length() == 25
    second = model.generate(first, **options, **{CACHE: cache})
    assert second[0].tolist() == greedy(model, ids[0].tolist(), 12)


def test_signatures_show_the_name_of_this_transformers(small_model):
    model = small_model()
    for forward in (model.forward, model.model.forward, model.model.layers[0].forward):
        assert [name for name in inspect.signature(forward).parameters if name in NAMES] == [CACHE]


def test_no_pass_calls_what_transformers_has_deprecated(small_model, tokens, caplog):
    model, ids = small_model(), tokens(2, 20)
    options = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for implementation in ("hysparse_chunked", "eager", "mimo_sink"):
            model.set_attn_implementation(implementation)
            model.train()(ids, labels=ids).loss.backward()
            model.eval().generate(ids, attention_mask=mask, **options)
            model.generate(ids, attention_mask=mask, num_beams=2, **options)
        model.generate(ids[:1], attention_mask=mask[:1], assistant_model=small_model(seed=5), **options)
    assert [record.message for record in caplog.records if "deprecated" in record.message] == []


def test_a_cache_is_left_alone_where_layers_are_computed_again(small_model, tokens):
    """Under gradient checkpointing a layer runs twice, and would write to the cache twice."""
    model, ids = small_model().train(), tokens(2, 40)
    gradients = []
    for again in (False, True):
        if again:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        model.zero_grad()
        model(ids, labels=ids, use_cache=True).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert_close(gradients[0], gradients[1])
