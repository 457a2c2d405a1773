"""`attn_implementation="sale"` in models: equal to sdpa where it has to be, sparse where it should be, and it says which."""

import logging
import math

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, StaticCache

from mimo_hf import SaleConfig, sale_report, use_sale
from mimo_hf.modeling.sale import attention_sale, sale_attention_forward, watch_tiles
from mimo_hf.modeling.sale.masks import content_of, pairs_of

MIN = 256
DENSE = SaleConfig(tau=2e-5, min_seq_len=MIN)  # all tiles, by the sparse way
SPARSE = SaleConfig(tau=5.0, min_seq_len=MIN)
LEAST = SaleConfig(tau=math.inf, min_seq_len=MIN)  # what is always kept
CLOSE = {"atol": 2e-4, "rtol": 2e-4}


@pytest.fixture(autouse=True)
def no_gradients():
    attention_sale._say_once.cache_clear()
    with torch.no_grad():
        yield


def reasons(caplog):
    return [record.getMessage().rpartition("dense attention for ")[2] for record in caplog.records]


# Equal to dense attention


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_with_all_tiles_the_logits_are_those_of_sdpa(make_model, prompt, family):
    model = make_model(family)
    ids = prompt(2, 600)
    expected = model(ids).logits
    use_sale(model, DENSE)
    assert_close(model(ids).logits, expected, **CLOSE)
    assert sale_report(model).density == 1.0


@pytest.mark.parametrize(
    "config", [DENSE, LEAST]
)  # between them, positions that begin elsewhere move a tile over the threshold
def test_a_padded_batch_is_its_rows_alone(make_model, prompt, config):
    model = use_sale(make_model(), config)
    ids = prompt(3, 700)
    mask = torch.ones_like(ids)
    mask[0, :150] = 0  # on the left
    mask[1, 620:] = 0  # on the right
    mask[2, :600] = 0  # shorter than the shortest
    together = model(ids, attention_mask=mask).logits
    for row in range(3):
        real = mask[row].bool()
        assert_close(together[row, real], model(ids[row : row + 1, real]).logits[0], **CLOSE)
    assert together.isfinite().all()


def test_greedy_generation(make_model, prompt):
    model = make_model()
    ids = prompt(2, 500)
    mask = torch.ones_like(ids)
    mask[0, :100] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    use_sale(model, DENSE)
    assert torch.equal(model.generate(ids, **options), expected)
    assert len(sale_report(model).layers) == 2  # of the prefill: decoding leaves it


@pytest.mark.parametrize("padded", [False, True])
def test_a_prompt_in_two_parts(make_model, prompt, padded):
    model = make_model()
    ids = prompt(2, 800)
    mask = torch.ones_like(ids)
    mask[0, : 120 * padded] = 0
    expected = model(ids, attention_mask=mask).logits[:, 450:]
    use_sale(model, DENSE)
    first = model(ids[:, :450], attention_mask=mask[:, :450], use_cache=True)
    second = model(ids[:, 450:], attention_mask=mask, past_key_values=first.past_key_values)
    assert_close(second.logits, expected, **CLOSE)
    report = sale_report(model).layers[0]
    assert (report.queries, report.keys) == (350, 800)


@pytest.mark.parametrize("first", [0, 30])
def test_a_mask_of_the_new_tokens_only_is_filled_up_as_for_sdpa(make_model, prompt, first):
    model = make_model()
    ids, mask = prompt(1, 700), torch.ones(1, 350, dtype=torch.long)
    mask[0, :first] = 0
    found = []
    for choose in (lambda model: model, lambda model: use_sale(model, DENSE)):
        past = choose(model)(ids[:, :350], use_cache=True).past_key_values
        found.append(model(ids[:, 350:], past_key_values=past, attention_mask=mask).logits)
    assert_close(*found, **CLOSE)


def test_the_report_is_of_the_prefill_whatever_adds_to_it(make_model, prompt):
    model = use_sale(make_model(), DENSE)
    ids = prompt(1, 320)
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    for drafted in ({"prompt_lookup_num_tokens": 3}, {"prefill_chunk_size": 300}):
        model.generate(ids, **options, **drafted)
        assert len(sale_report(model).layers) == 2
    model(prompt(1, 200))
    assert not sale_report(model).layers


def test_saved_and_loaded(make_model, prompt, tmp_path):
    model = use_sale(make_model(), SPARSE)
    ids = prompt(1, 600)
    expected = model(ids).logits
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sale")
    assert SaleConfig.from_dict(loaded.config.sale) == SPARSE
    assert_close(loaded(ids).logits, expected)


def test_by_one_argument_with_the_defaults(make_model, prompt, tmp_path):
    make_model().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sale")
    model(prompt(1, 1025))
    assert sale_report(model).layers[0].keys == 1025
    model.set_attn_implementation("sdpa")
    dense = model(prompt(1, 1024)).logits
    model.set_attn_implementation("sale")
    assert_close(model(prompt(1, 1024)).logits, dense)  # at most 1,024: dense
    assert not sale_report(model).layers


# Sparse


def by_hand(module, config, query, key, value):
    """One layer over rows without padding, a head at a time, through the kernel's map of tiles and a mask of all pairs."""
    kernel = attention_sale.kernel()
    tau = config.tau_of(module.layer_idx, query.shape[1])
    kept = kernel.unpack_tiles(kernel.select_blocks(query, key, tau), -(-key.shape[2] // 32))
    n, t = query.shape[2], key.shape[2]
    pairs = kept.repeat_interleave(64, 2)[:, :, :n].repeat_interleave(32, 3)[..., :t]
    pairs &= torch.ones(n, t, dtype=torch.bool).tril(t - n)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, pairs, enable_gqa=True).transpose(1, 2)


def test_sparse_prefill_with_a_threshold_a_head(make_model, prompt):
    tau = [[0.0, 5.0, 20.0, math.inf], [5.0, 5.0, 5.0, 5.0]]
    model = use_sale(make_model(), SaleConfig(tau=tau, min_seq_len=MIN))
    seen = {}
    layers = [layer.self_attn for layer in model.model.layers]

    def spy(module, query, key, value, mask, **options):
        out = sale_attention_forward(module, query, key, value, mask, **options)
        seen[module] = (query, key, value, out[0])
        return out

    from transformers import AttentionInterface

    AttentionInterface.register("sale", spy)
    try:
        model(prompt(1, 700))
    finally:
        AttentionInterface.register("sale", sale_attention_forward)
    config = SaleConfig.from_dict(model.config.sale)
    for layer in layers:
        query, key, value, out = seen[layer]
        assert_close(out, by_hand(layer, config, query, key, value), **CLOSE)
    first, second = sale_report(model).layers
    assert first.density[0] == 1.0
    assert first.density[0] > first.density[1] > first.density[2] > first.density[3]
    assert 0.2 < second.mean_density < 0.99
    assert 0 < first.estimated_share < 1
    assert first.select_s > 0
    assert first.attend_s > 0
    text = str(sale_report(model))
    assert f"density {sale_report(model).density:.3f} over 2 layers" in text
    assert sale_report(model).to_dict()["layers"][1]["layer"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"quant": "block"},
        {"smooth": False},
        {"share_group": True},
        {"compute": "int8"},
        {"block_q": 32},
        {"block_k": 16},
        {"local_window": 320},
        {"block_seg": 256},
        {"sink_tokens": 96},
    ],
)
def test_each_setting_and_the_layer_s_scaling_reach_the_kernel(change):
    torch.manual_seed(0)
    query, value = 3 * torch.randn(2, 4, 700, 16), torch.randn(2, 2, 700, 16)
    key = torch.randn(2, 2, 700, 16) + 3 * torch.randn(2, 2, 1, 16)
    layer, kernel, found = Layer().eval(), attention_sale.kernel(), []
    for settings in ({}, change):
        layer.config = type("Config", (), {"sale": SaleConfig(tau=4.0, min_seq_len=MIN, **settings).to_dict()})
        found.append(sale_attention_forward(layer, query, key, value, None, scaling=0.4)[0].transpose(1, 2))
    sizes = {name: size for name, size in change.items() if name in kernel.Tiling._fields}
    selection = {name: change[name] for name in ("quant", "smooth", "share_group") if name in change}
    options = {"scale": 0.4, "tiling": kernel.Tiling(**sizes)}
    kept = kernel.select_blocks(query, key, 4.0, **selection, **options)
    compute = change.get("compute", "native")
    assert_close(found[1], kernel.attend_blocks(query, key, value, kept, compute=compute, **options))
    assert (found[1] - found[0]).abs().max() > 1e-3
    density = kernel.unpack_tiles(kept, -(-700 // options["tiling"].block_k)).sum(dim=(0, 2, 3)) / (
        2 * kernel.Layout(700, 700, options["tiling"]).causal_tiles()
    )
    assert_close(torch.tensor(sale_report(layer).layers[0].density), density)


def test_watched_tiles_are_those_of_the_report(make_model, prompt):
    model = use_sale(make_model(), SPARSE)
    ids = prompt(2, 700)
    with watch_tiles(model) as tiles:
        model(ids[:1])
        report = sale_report(model)
        model(ids[1:])  # the first one counts
        assert sale_report(model) != report
    model(ids[1:])
    causal = sum(-(-min(700, 64 * row + 64) // 32) for row in range(11))
    assert sorted(tiles) == [0, 1]
    for layer in report.layers:
        kept = tiles[layer.layer]
        assert kept.shape == (4, 11, 22)
        assert_close(kept.sum(dim=(1, 2)) / causal, torch.tensor(layer.density), check_dtype=False)
        for row in range(11):
            assert not kept[:, row, 2 * row + 2 :].any()
    assert not attention_sale._WATCHED


def test_layers_before_the_first(make_model, prompt, caplog):
    model = use_sale(make_model(), SaleConfig(tau=0.5, min_seq_len=MIN, start_layer=1))
    model(prompt(1, 600))
    assert [layer.layer for layer in sale_report(model).layers] == [1]
    assert reasons(caplog) == ["a layer before 1"]


# Dense, and it says why


def test_reasons_are_said_once_each(make_model, prompt, caplog):
    caplog.set_level(logging.INFO, "mimo_hf.modeling.sale")
    model = use_sale(make_model(), SPARSE)
    for _ in range(2):
        model.generate(prompt(1, 256), max_new_tokens=3, pad_token_id=0)
        model(prompt(1, 300))
    assert reasons(caplog) == ["at most 256 queries", "decoding"]
    with torch.enable_grad():
        model(prompt(1, 300))
        model.train()(prompt(1, 300))
    assert reasons(caplog)[2:] == ["gradients: call the model under torch.no_grad()", "training"]
    assert str(sale_report(model)).startswith("SALE: no layer's last prefill went through it")


def test_gradients_are_those_of_sdpa(make_model, prompt):
    gradients = []
    for choose in (lambda model: model, lambda model: use_sale(model, SPARSE)):
        model = choose(make_model()).train()
        with torch.enable_grad():
            model(prompt(1, 300), labels=prompt(1, 300)).loss.backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    assert_close(*gradients)


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj"])
def test_a_gradient_of_one_projection_is_that_of_sdpa(make_model, prompt, name):
    gradients = []
    for choose in (lambda model: model, lambda model: use_sale(model, SPARSE)):
        model = choose(make_model()).requires_grad_(requires_grad=False)
        weight = getattr(model.model.layers[0].self_attn, name).weight.requires_grad_()
        with torch.enable_grad():
            model(prompt(1, 300)).logits.square().sum().backward()
        gradients.append(weight.grad)
    assert_close(*gradients)


def test_a_static_cache_is_dense(make_model, prompt, caplog):
    model = make_model()
    ids = prompt(1, 400)
    expected = model(ids).logits
    use_sale(model, SPARSE)
    cache = StaticCache(config=model.config, max_cache_len=512)
    assert_close(model(ids, past_key_values=cache, use_cache=True).logits, expected, **CLOSE)
    assert reasons(caplog) == ["a mask that says more than causal and padding, or a static cache"]


def test_a_mask_with_holes_is_dense(make_model, prompt, caplog):
    model = make_model()
    ids, mask = prompt(1, 400), torch.ones(1, 400, dtype=torch.long)
    mask[0, 100:120] = 0
    expected = model(ids, attention_mask=mask).logits
    use_sale(model, SPARSE)
    assert_close(model(ids, attention_mask=mask).logits[:, 120:], expected[:, 120:], **CLOSE)
    assert reasons(caplog) == ["a mask with holes"]


def test_layers_with_a_window_are_dense_and_others_sparse(make_model, prompt, caplog):
    layers = ["full_attention", "sliding_attention"]
    settings = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0, "layer_types": layers}
    model = make_model("qwen3", **settings)
    ids = prompt(1, 500)
    expected = model(ids).logits
    use_sale(model, DENSE)
    assert_close(model(ids).logits, expected, **CLOSE)
    assert [layer.layer for layer in sale_report(model).layers] == [0]
    assert reasons(caplog) == ["a layer with a sliding window"]


def test_packed_documents_are_dense(make_model, prompt, caplog):
    model = make_model()
    ids = prompt(1, 400)
    positions = torch.cat([torch.arange(150), torch.arange(250)])[None]
    expected = model(ids, position_ids=positions, use_cache=False).logits
    use_sale(model, SPARSE)
    assert_close(model(ids, position_ids=positions, use_cache=False).logits, expected, **CLOSE)
    assert reasons(caplog) == ["a mask that says more than causal and padding, or a static cache"]


class Layer(torch.nn.Module):
    num_key_value_groups, layer_idx, is_causal = 2, 0, True


def tensors():
    torch.manual_seed(0)
    return torch.randn(1, 4, 1100, 16), torch.randn(1, 2, 1100, 16), torch.randn(1, 2, 1100, 16)


def test_sinks_take_their_share_and_other_features_are_told(caplog):
    query, key, value = tensors()
    sinks = torch.full((4,), 5.0)
    out, _ = sale_attention_forward(Layer(), query, key, value, None, s_aux=sinks)
    logits = (query @ key.repeat_interleave(2, 1).transpose(2, 3)) / 4
    logits = logits.masked_fill(~torch.ones(1100, 1100, dtype=torch.bool).tril(), -math.inf)
    weights = torch.cat([logits, sinks[:, None, None].expand(1, 4, 1100, 1)], -1).softmax(-1)[..., :-1]
    assert_close(out.transpose(1, 2), weights @ value.repeat_interleave(2, 1), **CLOSE)
    sale_attention_forward(Layer(), query, key, value, None, is_causal=False)
    assert reasons(caplog) == ["a layer with sinks", "attention that is not causal"]
    with pytest.raises(ValueError, match=r"`softcap` must be None with attn_implementation='sale'; got 30\.0"):
        sale_attention_forward(Layer(), query, key, value, None, softcap=30.0)


def test_not_causal_is_every_key(caplog):
    query, key, value = tensors()
    out, _ = sale_attention_forward(Layer(), query, key, value, None, is_causal=False)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert_close(out.transpose(1, 2), expected, **CLOSE)


def test_a_decoding_step_is_one_graph():
    _, key, value = tensors()
    query = torch.randn(1, 4, 1, 16)
    step = torch.compile(sale_attention_forward, fullgraph=True, backend="eager")
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert_close(step(Layer(), query, key, value, None)[0].transpose(1, 2), expected)


def test_what_the_kernel_has_no_code_for_on_a_gpu():
    lacks = attention_sale.kernel_lacks
    narrow, wide = torch.empty(1, 1, 1, 128), torch.empty(1, 1, 1, 256)
    assert lacks(narrow, narrow, SPARSE) is None
    assert lacks(wide, wide, SPARSE) == "head dims 256/256, which the kernel does not have on a GPU"
    assert lacks(narrow.double(), narrow, SPARSE).startswith("torch.float64, which")
    assert lacks(narrow, narrow, SaleConfig(block_q=48)).startswith("`block_q` of 48, which")


# What can't be


def test_models_with_attention_of_their_own():
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=8, hidden_size=8, n_layer=1, n_head=1))
    with pytest.raises(ValueError, match=r"`model` must have layers that ask .* got BloomForCausalLM"):
        use_sale(model)


def test_layers_without_an_index():
    layer = Layer().eval()
    layer.layer_idx, layer.config = None, type("Config", (), {"sale": SaleConfig(tau=[[0.5] * 4]).to_dict()})
    with pytest.raises(ValueError, match="got Layer without `layer_idx`"):
        sale_attention_forward(layer, *tensors(), None)


@pytest.mark.parametrize("value", [SaleConfig(), 0.004, "low", [0.1]])
def test_settings_that_are_no_dict(make_model, prompt, value):
    model = use_sale(make_model(), SPARSE)
    model.config.sale = value
    with pytest.raises(TypeError, match=r"`config\.sale` must be a dict, as SaleConfig\.to_dict\(\) gives it; got"):
        model(prompt(1, 300))


def test_thresholds_of_another_model(make_model):
    with pytest.raises(ValueError, match=r"`tau` must be one number or \[2, 4\], .* got \[3, 8\]"):
        use_sale(make_model(), SaleConfig(tau=torch.zeros(3, 8)))


def test_thresholds_of_another_model_in_a_configuration(make_model, prompt):
    model = use_sale(make_model(), SPARSE)
    model.config.sale["tau"] = [[0.5] * 8]
    with pytest.raises(
        ValueError, match="`tau` must have a threshold for each layer and head of this model, layer 0 with 4 heads"
    ):
        model(prompt(1, 300))


def test_settings_that_sale_does_not_have(make_model, prompt):
    model = use_sale(make_model(), SPARSE)
    model.config.sale["taus"] = 0.5
    with pytest.raises(ValueError, match="`sale` must have settings of SaleConfig"):
        model(prompt(1, 300))


# Masks


def test_where_content_lies():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]]).bool()
    rows = content_of(mask, 3, 4, 6)  # the queries are the last four slots
    assert [(row.keys, row.queries) for row in rows] == [
        (slice(2, 6), slice(0, 4)),
        (slice(0, 4), slice(0, 2)),
        (slice(1, 3), slice(0, 1)),
    ]
    assert content_of(torch.tensor([[1, 0, 1]]).bool(), 1, 3, 3) is None
    pairs = pairs_of(mask, 4)
    assert pairs.shape == (3, 1, 4, 6)
    assert pairs[0, 0].tolist()[1] == [False, False, True, True, False, False]


def test_a_long_prompt_needs_no_map_of_all_pairs(make_model, prompt, monkeypatch):
    model = use_sale(make_model(), SPARSE)
    largest = 0
    from torch.overrides import TorchFunctionMode

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    ids = prompt(1, 3000)
    mask = torch.ones_like(ids)
    mask[0, :500] = 0
    with Watch():
        model(ids, attention_mask=mask, logits_to_keep=1)
    assert 3000 * 64 < largest < 3000 * 64 * 6  # scores of a tile of queries for a group; all pairs would be 9,000,000
