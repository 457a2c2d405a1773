"""MiMo-V2-Flash and MiMo-7B on sink-swa-attn, chosen by `attn_implementation`, against their own attention."""

import importlib
import sys

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache
from transformers.integrations import hub_kernels
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_kernels_available

from mimo_hf import MiMoConfig, MiMoForCausalLM, MiMoV2FlashConfig, MiMoV2FlashForCausalLM
from mimo_hf.hub import kernels

HUB_ID, OWN_NAME = "mimo-hf/sink-swa-attn", "sink-swa-attn"
EXACT = {"rtol": 0, "atol": 2e-5}
WINDOW = 5
FLASH = {
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "mlp_layer_types": ["dense"] * 3,  # a router would turn rounding into other experts
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 192,
    "v_head_dim": 128,
    "sliding_window": WINDOW,
    "max_position_embeddings": 256,
    "num_mtp_layers": 2,
    "mtp_train_mode": "joint",
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.2,
}
DENSE = {
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "num_nextn_predict_layers": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.2,
}

needs_bridge = pytest.mark.skipif(
    not is_kernels_available(), reason="this transformers accepts another version of the kernels library"
)


class Remote(torch.autograd.Function):
    """The kernel in the interpreter's process, and its gradients."""

    @staticmethod
    def forward(ctx, call, query, key, value, sinks, window, scaling, kv_start):
        arguments = {"query": query, "key": key, "value": value, "sinks": sinks, "kv_start": kv_start}
        arguments = {name: None if x is None else x.detach() for name, x in arguments.items()}
        ctx.again = lambda grad: call(arguments | {"window": window, "scaling": scaling}, grad)
        return ctx.again(None)

    @staticmethod
    def backward(ctx, grad):
        _, found = ctx.again(grad)
        return None, found["query"], found["key"], found["value"], found.get("sinks"), None, None, None


@pytest.fixture(scope="module", autouse=True)
def _local_kernels():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_KERNELS", "to be=restored")
        patch.delenv("LOCAL_KERNELS")
        kernels.use_local_kernels()
        kernels.register_attention(OWN_NAME)
        yield


@pytest.fixture
def device(backend, package_of, monkeypatch):
    """Where models run; for the interpreter, the kernel's own calls are sent to it."""
    if backend.name == "interpreter":
        home = importlib.import_module(f"{kernels.load(OWN_NAME).__name__}.transformers_attention")
        package = package_of(OWN_NAME)

        def call(arguments, grad):
            return backend(package, "sink_swa_attention", arguments | backend.options, grad)

        monkeypatch.setattr(home, "sink_swa_attention", lambda *arguments: Remote.apply(call, *arguments))
    return "cuda" if backend.name == "gpu" else "cpu"


def make(model_class, config_class, fields, attention, device="cpu", **changes):
    torch.manual_seed(0)
    model = model_class._from_config(config_class(**(fields | changes)), attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # sinks of zero and gains of one hide errors
    return model.eval().to(device)


def flash(attention, device="cpu", **changes):
    return make(MiMoV2FlashForCausalLM, MiMoV2FlashConfig, FLASH, attention, device, **changes)


def dense(attention, device="cpu", **changes):
    return make(MiMoForCausalLM, MiMoConfig, DENSE, attention, device, **changes)


def batch(device, length=22, paddings=(0, 3, 15)):
    ids = torch.randint(29, (len(paddings), length), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(length) >= torch.tensor(paddings)[:, None]).long()
    return ids.to(device), mask.to(device)


MODELS = pytest.mark.parametrize(("make_model", "own"), [(flash, "mimo_sink"), (dense, "sdpa")])


@needs_bridge
@torch.no_grad()
def test_transformers_finds_the_kernel_by_its_hub_id():
    model = flash(HUB_ID)
    assert model.config._attn_implementation == HUB_ID
    chosen = ALL_ATTENTION_FUNCTIONS[HUB_ID]
    assert chosen.__module__.startswith("_sink_swa_attn_")
    ids, mask = batch("cpu")
    expected = flash("mimo_sink")(ids, attention_mask=mask).logits
    assert_close(model(ids, attention_mask=mask).logits[mask.bool()], expected[mask.bool()], **EXACT)


@needs_bridge
@torch.no_grad()
def test_from_pretrained_takes_the_hub_id(tmp_path):
    model = flash("mimo_sink")
    model.save_pretrained(tmp_path)
    loaded = MiMoV2FlashForCausalLM.from_pretrained(tmp_path, attn_implementation=HUB_ID)
    ids, _ = batch("cpu")
    assert loaded.config._attn_implementation == HUB_ID
    assert_close(loaded(ids).logits, model(ids).logits, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize(("make_model", "own"), [(flash, "eager"), (flash, "mimo_sink"), (dense, "sdpa")])
@pytest.mark.parametrize("paddings", [(0, 0), (0, 3, 15)])
def test_logits_of_trunk_and_heads(device, make_model, own, paddings):
    ids, mask = batch(device, paddings=paddings)
    outputs = []
    for attention in (own, OWN_NAME):
        model = make_model(attention, device)
        outputs.append([model(ids, attention_mask=mask).logits, *model.mtp_logits(ids, attention_mask=mask)])
    for expected, actual in zip(*outputs, strict=True):
        assert actual.isfinite().all()
        seen = mask[:, : actual.shape[1]].bool()
        assert expected[seen].std() > 0.1
        assert_close(actual[seen], expected[seen], **EXACT)


@torch.no_grad()
@MODELS
@pytest.mark.parametrize("chunks", [[1] * 9 + [13], [14, 1, 1, 4, 2]], ids=["steps", "prefill"])
def test_cached_chunks(device, make_model, own, chunks):
    ids, mask = batch(device)
    expected = make_model(own, device)(ids, attention_mask=mask).logits
    model = make_model(OWN_NAME, device)
    cache, parts, end = DynamicCache(config=model.config), [], 0
    for part in ids.split(chunks, dim=1):
        end += part.shape[1]
        parts.append(model(part, attention_mask=mask[:, :end], past_key_values=cache, use_cache=True).logits)
    assert_close(torch.cat(parts, dim=1)[mask.bool()], expected[mask.bool()], **EXACT)


@MODELS
@pytest.mark.parametrize("use_mtp", [False, True], ids=["plain", "mtp"])
def test_greedy_generation_of_a_batch(device, make_model, own, use_mtp):
    ids, mask = batch(device, length=9, paddings=(0, 3, 7))
    arguments = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    expected = make_model(own, device).generate(ids, **arguments)
    assert len(expected[:, 9:].unique()) > 5
    assert torch.equal(make_model(OWN_NAME, device).generate(ids, use_mtp=use_mtp, **arguments), expected)


@MODELS
def test_gradients_of_every_parameter(device, make_model, own):
    ids, mask = batch(device)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 1:] = labels[:, 1:].masked_fill(mask[:, :-1] == 0, -100)  # what stands before the first token is padding
    gradients = []
    for attention in (own, OWN_NAME):
        model = make_model(attention, device, mtp_loss_weight=0.5).train()
        model(ids, attention_mask=mask, labels=labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(x.abs().max() > 1e-6 for name, x in gradients[0].items() if name.endswith("sinks"))
    for name, expected in gradients[0].items():
        if expected is not None:
            scale = expected.abs().max().clamp_min(1e-3).item()
            close = {"rtol": 1e-4, "atol": 1e-4 * scale}
            assert_close(gradients[1][name], expected, **close, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_no_worse_than_eager(device, dtype):
    ids, _ = batch(device)
    exact = flash("eager", device)(ids).logits
    errors = []
    for attention in ("eager", OWN_NAME):
        rounded = flash(attention, device).to(dtype)(ids).logits.float()
        errors.append(((rounded - exact).norm() / exact.norm()).item())
    assert errors[1] < 1.5 * errors[0]


# Bad input


def unusable(message, model, *, kind=ValueError, **arguments):
    ids, _ = batch("cpu")
    with pytest.raises(kind, match=message):
        model(ids, **arguments)


def test_head_dims_that_the_kernel_does_not_take(device, backend):
    """No silent fallback: the model that asks for the kernel gets it or an error."""
    model = flash(OWN_NAME, device, head_dim=24, v_head_dim=8)
    ids, _ = batch(device)
    if backend.name == "reference":
        assert_close(model(ids).logits, flash("eager", head_dim=24, v_head_dim=8)(ids).logits, **EXACT)
    else:
        with pytest.raises(ValueError, match=r"head dims d/dv .*192/128; got 24/8"):
            model(ids)


def test_a_missing_sink():
    model = flash(OWN_NAME)
    model.model.layers[1].self_attn.sinks = None
    unusable(
        "`s_aux` must not be None where the configuration wants sinks; layer 1 has none. .*attention_sink_bias", model
    )


def test_a_full_attention_layer_without_the_sink_that_the_configuration_wants():
    model = flash(OWN_NAME)
    model.config.add_full_attention_sink_bias = True
    unusable("layer 0 has none", model)


def test_a_window_of_zero():
    model = flash(OWN_NAME)
    model.model.layers[1].self_attn.sliding_window = 0
    unusable("`window` must .* at least 1, .*; got 0", model, attention_mask=dict.fromkeys(FLASH["layer_types"]))


def test_packed_documents():
    positions = torch.cat([torch.arange(9), torch.arange(13)])[None].expand(3, -1)
    message = 'must be causal with .*Packed documents.*attn_implementation="eager" or "mimo_sink"'
    unusable(message, flash(OWN_NAME), position_ids=positions, use_cache=False)


def test_a_static_cache():
    ids, mask = batch("cpu")
    with pytest.raises(ValueError, match="static cache"):
        flash(OWN_NAME).generate(ids, attention_mask=mask, cache_implementation="static", max_new_tokens=3)


def test_dropout():
    model = flash(OWN_NAME, attention_dropout=0.1).train()
    unusable(r"`dropout` must be 0; got 0.1. Set attention_dropout=0.0", model)


def test_a_transformers_that_does_not_accept_the_kernels_library(monkeypatch):
    """transformers says so for a Hub id; the kernel's own name still works."""
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: False)
    monkeypatch.setattr("transformers.modeling_flash_attention_utils._loaded_implementation", None)
    with pytest.raises(ImportError, match="kernels"):
        flash(HUB_ID)
    ids, _ = batch("cpu")
    assert_close(flash(OWN_NAME)(ids).logits, flash("mimo_sink")(ids).logits, **EXACT)


@needs_bridge
def test_a_kernel_that_is_nowhere():
    with pytest.raises(ValueError, match="mimo-hf/sink-full-attn"):
        flash("mimo-hf/sink-full-attn")
    with pytest.raises(kernels.KernelError, match=r"there is no kernel 'sink-full-attn'; there are .*sink-swa-attn"):
        kernels.register_attention("sink-full-attn")


def test_a_kernel_that_is_no_attention(monkeypatch):
    module = sys.modules[kernels.load(OWN_NAME).__name__]
    monkeypatch.delattr(module, "supports_flash_attn")
    with pytest.raises(kernels.KernelError, match="'sink-swa-attn' is no attention: it has no `flash_attn_forward`"):
        kernels.register_attention(OWN_NAME)
