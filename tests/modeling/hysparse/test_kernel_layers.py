"""The layers of kernels/hysparse-attn in a HySparse model: the same logits, selections and gradients."""

import pytest
import torch
from torch.testing import assert_close

from mimo_hf import HySparseCache
from mimo_hf.hub.kernels import register_layers

kernels = pytest.importorskip("kernels")


@pytest.fixture(scope="module", autouse=True)
def registered():
    assert register_layers("hysparse-attn") == ["HySparseFullAttention", "HySparseSparseAttention"]


def replaced(model):
    """The layers whose forward is a kernel's."""
    return [name for name, module in model.named_modules() if "hysparse_attn" in module.forward.__func__.__module__]


def kernelized(model, mode):
    return kernels.kernelize(model, mode=mode, device="cpu")


def test_kernel_layers_give_the_models_logits_and_selections(small_model, tokens):
    model, ids = small_model(forced_local_blocks=1), tokens(2, 54)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    results = []
    for step in ("before", "after"):
        if step == "after":
            kernelized(model, kernels.Mode.INFERENCE)
            assert replaced(model) == [
                "model.layers.0.self_attn.attend_all",
                "model.layers.1.self_attn.attend_blocks",
                "model.layers.2.self_attn.attend_blocks",
                "model.layers.3.self_attn.attend_all",
                "model.layers.4.self_attn.attend_all",
            ]
        cache = HySparseCache(model.config, record_selection=True)
        with torch.no_grad():
            whole = model(ids, attention_mask=mask, past_key_values=cache).logits
            selection = cache.last_selection[0]
            step_logits = model(
                ids[:, :1], attention_mask=torch.cat([mask, mask[:, -1:]], 1), past_key_values=cache
            ).logits
        results.append((whole[0], whole[1, 7:], selection[0], selection[1, :, 7:], step_logits))
    for before, after in zip(*results, strict=True):
        assert_close(after, before, atol=1e-12, rtol=0)


def test_kernel_layers_give_the_models_gradients(small_model, tokens):
    model, ids = small_model().train(), tokens(2, 40)
    gradients = []
    for step in ("before", "after"):
        if step == "after":
            kernelized(model, kernels.Mode.TRAINING)
            assert len(replaced(model)) == 5
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, msg=name)


def test_generation_with_kernel_layers_is_the_same(small_model, tokens):
    model, ids = small_model(), tokens(1, 20)
    options = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    assert torch.equal(kernelized(model, kernels.Mode.INFERENCE).generate(ids, **options), expected)


def test_an_ablated_oracle_keeps_its_own_code(small_model):
    model = small_model(oracle_reduce="random")
    kernelized(model, kernels.Mode.INFERENCE)
    assert replaced(model) == [f"model.layers.{layer}.self_attn.attend_blocks" for layer in (1, 2)]
