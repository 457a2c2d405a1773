"""`mimo_sink` attention against the sum over keys written out, and against transformers' eager attention in the model."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, StaticCache
from transformers.models.mimo_v2_flash.modeling_mimo_v2_flash import eager_attention_forward

from mimo_hf.modeling.sink_attention import sink_attention_forward

HEADS, HEAD_DIM, VALUE_DIM = 4, 6, 5
SCALING = 0.5
FEW, MANY = 7, 20  # lengths on both sides of the number of queries from which on the fused kernel is used
EXACT = {"rtol": 0, "atol": 1e-5}


def module(kv_heads, sinks):
    """What an attention layer shows to the function it calls."""
    groups = HEADS // kv_heads
    return SimpleNamespace(num_key_value_groups=groups, sinks=sinks, training=False, is_causal=True)


def tensors(kv_heads=2, queries=FEW, keys=None, batch=2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    keys = queries if keys is None else keys
    shapes = [(batch, HEADS, queries, HEAD_DIM), (batch, kv_heads, keys, HEAD_DIM), (batch, kv_heads, keys, VALUE_DIM)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    sinks = torch.randn(HEADS, generator=generator, dtype=torch.float64)
    return [tensor.to(dtype) for tensor in (q, k, v, sinks)]


def causal(queries, keys, window=None):
    """`[1, 1, queries, keys]`: the last query stands at the last key; a window counts the query."""
    i = torch.arange(queries)[:, None] + keys - queries
    j = torch.arange(keys)[None, :]
    return ((j <= i) & (j > i - (window or keys)))[None, None]


def in_loops(query, key, value, allowed, sinks):
    """arXiv 2601.02780, eq. 1-4, one query, head and key at a time; `[batch, queries, heads, channels]`."""
    q, k, v, sinks = (tensor.double().numpy() for tensor in (query, key, value, sinks))
    batch, heads, queries, _ = q.shape
    allowed = allowed.expand(batch, 1, queries, k.shape[2])
    out = np.zeros((batch, queries, heads, v.shape[-1]))
    for b in range(batch):
        for h in range(heads):
            kv = h * k.shape[1] // heads
            for i in range(queries):
                seen = [j for j in range(k.shape[2]) if allowed[b, 0, i, j]]
                scores = [q[b, h, i] @ k[b, kv, j] * SCALING for j in seen]
                top = max([*scores, sinks[h]])
                total = math.exp(sinks[h] - top) + sum(math.exp(score - top) for score in scores)
                for score, j in zip(scores, seen, strict=True):
                    out[b, i, h] += math.exp(score - top) / total * v[b, kv, j]
    return torch.from_numpy(out)


def sink(q, k, v, sinks, mask):
    output, weights = sink_attention_forward(module(k.shape[1], sinks), q, k, v, mask, scaling=SCALING, s_aux=sinks)
    assert weights is None
    return output


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 7), (3, 7), (7, 7), (16, 16), (17, 17), (20, 23)])
def test_values(kv_heads, queries, keys):
    q, k, v, sinks = tensors(kv_heads, queries, keys)
    mask = causal(queries, keys)
    assert_close(sink(q, k, v, sinks, mask).double(), in_loops(q, k, v, mask, sinks), **EXACT)


@pytest.mark.parametrize("length", [FEW, MANY])
def test_values_that_are_wider_than_keys(length):
    q, k, _, sinks = tensors(queries=length)
    v = torch.randn(2, 2, length, 19, generator=torch.Generator().manual_seed(1))
    mask = causal(length, length)
    assert_close(sink(q, k, v, sinks, mask).double(), in_loops(q, k, v, mask, sinks), **EXACT)


@pytest.mark.parametrize("length", [FEW, MANY])
def test_values_in_a_window(length):
    q, k, v, sinks = tensors(queries=length)
    mask = causal(length, length, window=3)
    assert_close(sink(q, k, v, sinks, mask).double(), in_loops(q, k, v, mask, sinks), **EXACT)


@pytest.mark.parametrize("length", [FEW, MANY])
def test_an_additive_mask_means_the_same(length):
    q, k, v, sinks = tensors(queries=length)
    allowed = causal(length, length, window=3)
    added = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    assert_close(sink(q, k, v, sinks, added), sink(q, k, v, sinks, allowed), **EXACT)


@pytest.mark.parametrize(("queries", "keys"), [(1, 7), (FEW, FEW), (MANY, MANY)])
def test_no_mask_is_causal(queries, keys):
    q, k, v, sinks = tensors(queries=queries, keys=keys)
    expected = in_loops(q, k, v, causal(queries, keys), sinks)
    assert_close(sink(q, k, v, sinks, None).double(), expected, **EXACT)


@pytest.mark.parametrize("length", [FEW, MANY])
def test_a_row_that_sees_no_key_is_zero_with_finite_gradients(length):
    q, k, v, sinks = (tensor.requires_grad_() for tensor in tensors(queries=length))
    mask = causal(length, length).expand(2, 1, length, length).clone()
    mask[0, :, :, :3] = False  # three positions of left padding
    output = sink(q, k, v, sinks, mask)
    assert (output[0, :3] == 0).all()
    expected = in_loops(*(tensor.detach() for tensor in (q, k, v)), mask, sinks.detach())
    assert_close(output.double(), expected, **EXACT)
    output.square().sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (q, k, v, sinks))


@pytest.mark.parametrize("length", [FEW, MANY])
@pytest.mark.parametrize("logit", [-1e4, -60.0, 60.0, 1e4])
def test_extreme_sinks(length, logit):
    """A very low sink takes nothing: plain attention. A very high one takes everything."""
    q, k, v, _ = tensors(queries=length)
    output = sink(q, k, v, torch.full((HEADS,), logit), causal(length, length))
    if logit > 0:
        assert output.abs().max() < 1e-12
    else:
        expected = in_loops(q, k, v, causal(length, length), torch.full((HEADS,), -1e4))
        assert_close(output.double(), expected, **EXACT)


@pytest.mark.parametrize("length", [1, FEW, MANY])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_without_sinks_it_is_plain_attention(length, kv_heads):
    q, k, v, _ = tensors(kv_heads, queries=length, keys=MANY)
    mask = causal(length, MANY)
    output, _ = sink_attention_forward(module(kv_heads, None), q, k, v, mask, scaling=SCALING)
    assert_close(output.double(), in_loops(q, k, v, mask, torch.full((HEADS,), -1e4)), **EXACT)


@pytest.mark.parametrize("length", [FEW, MANY])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_gradients_equal_eager(kv_heads, length):
    allowed = causal(length, length, window=4)
    added = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    gradients = {}
    for name in ("eager", "mimo_sink"):
        q, k, v, sinks = leaves = [tensor.requires_grad_() for tensor in tensors(kv_heads, queries=length)]
        if name == "eager":
            output, _ = eager_attention_forward(module(kv_heads, sinks), q, k, v, added, scaling=SCALING)
        else:
            output = sink(q, k, v, sinks, allowed)
        output.square().sum().backward()
        gradients[name] = [tensor.grad for tensor in leaves]
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients["eager"])
    for actual, expected in zip(gradients["mimo_sink"], gradients["eager"], strict=True):
        assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [3, 17])
def test_gradients_equal_finite_differences(length):
    leaves = [tensor.requires_grad_() for tensor in tensors(queries=length, batch=1, dtype=torch.float64)]
    mask = causal(length, length, window=2)
    assert torch.autograd.gradcheck(lambda q, k, v, s: sink(q, k, v, s, mask), leaves, fast_mode=length > 3)


@pytest.mark.parametrize("length", [1, FEW, MANY])
def test_bf16(length):
    q, k, v, sinks = tensors(queries=length, keys=MANY, dtype=torch.bfloat16)
    mask = causal(length, MANY)
    output = sink(q, k, v, sinks, mask)
    assert output.dtype == torch.bfloat16
    assert_close(output.double(), in_loops(q, k, v, mask, sinks), rtol=0.02, atol=0.03)


@pytest.fixture(scope="module")
def models(tiny_model):
    """The same weights under both implementations."""
    return tiny_model("eager"), tiny_model("mimo_sink")


def heads_and_trunk(model, ids, mask=None):
    return [model(ids, attention_mask=mask).logits, *model.mtp_logits(ids, attention_mask=mask)]


def left_padding(length, padding):
    return None if padding is None else (torch.arange(length) >= torch.tensor(padding)[:, None]).long()


@torch.no_grad()
@pytest.mark.parametrize("length", [12, 24])
@pytest.mark.parametrize("padding", [None, [0, 5], [9, 2]])
def test_model_logits_equal_eager(models, tokens, length, padding):
    ids, mask = tokens(2, length), left_padding(length, padding)
    for expected, actual in zip(*(heads_and_trunk(model, ids, mask) for model in models), strict=True):
        assert actual.isfinite().all()
        seen = torch.ones(2, actual.shape[1]) if mask is None else mask[:, : actual.shape[1]]
        assert_close(actual[seen.bool()], expected[seen.bool()], **EXACT)


@pytest.mark.parametrize("length", [12, 24])
@pytest.mark.parametrize("padding", [None, [0, 5]])
def test_model_gradients_equal_eager(tiny_model, tokens, length, padding):
    ids, mask = tokens(2, length), left_padding(length, padding)
    labels = ids.clone()
    if mask is not None:
        # Nor is the first token learned: what stands before it is padding.
        labels[:, 1:] = labels[:, 1:].masked_fill(mask[:, :-1] == 0, -100)
    gradients = []
    for attention in ("eager", "mimo_sink"):
        model = tiny_model(attention, mtp_loss_weight=0.5).train()
        model(ids, attention_mask=mask, labels=labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    sinks = [name for name in gradients[0] if name.endswith("sinks")]
    assert len(sinks) == 5
    assert all(gradients[0][name].abs().min() > 1e-5 for name in sinks)
    for name, expected in gradients[0].items():
        assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 24, [5, 1, 18], [18, 4, 2], [3, 17, 4]])
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_cached_steps_equal_eager(models, tokens, chunks, static):
    ids, mask = tokens(2, 24), left_padding(24, [4, 0])
    logits = []
    for model in models:
        cache = StaticCache(model.config, max_cache_len=30) if static else DynamicCache(config=model.config)
        parts, end = [], 0
        for part in ids.split(chunks, dim=1):
            end += part.shape[1]
            output = model(part, attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
            parts.append(output.logits)
        logits.append(torch.cat(parts, dim=1))
    assert logits[1].isfinite().all()
    assert_close(logits[1][mask.bool()], logits[0][mask.bool()], **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("length", [12, 24])
def test_model_in_bf16(tiny_model, tokens, length):
    dense = {"mlp_layer_types": ["dense"] * 4}  # a router would turn rounding into other experts
    exact = tiny_model("eager", **dense)(tokens(2, length)).logits
    errors = {}
    for name in ("eager", "mimo_sink"):
        rounded = tiny_model(name, **dense).to(torch.bfloat16)(tokens(2, length)).logits.float()
        errors[name] = ((rounded - exact).norm() / exact.norm()).item()
    assert errors["mimo_sink"] < 0.05
    assert errors["mimo_sink"] < 1.5 * errors["eager"]
