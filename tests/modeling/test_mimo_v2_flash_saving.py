"""Files of MiMo-V2-Flash have the official names, come back exactly, and complain about heads that do not fit."""

import json
import logging
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.mimo_v2_flash.modeling_mimo_v2_flash import MiMoV2FlashForCausalLM as UpstreamModel

import mimo_hf
from mimo_hf import MiMoV2FlashForCausalLM

HEAD_SHAPES = {  # of the tiny configuration: 16 hidden, 24 intermediate, 4 query and 2 key-value heads of 24 and 8 channels
    "enorm.weight": [16],
    "hnorm.weight": [16],
    "eh_proj.weight": [16, 32],
    "input_layernorm.weight": [16],
    "self_attn.q_proj.weight": [96, 16],
    "self_attn.k_proj.weight": [48, 16],
    "self_attn.v_proj.weight": [16, 16],
    "self_attn.o_proj.weight": [16, 32],
    "self_attn.attention_sink_bias": [4],
    "pre_mlp_layernorm.weight": [16],
    "mlp.gate_proj.weight": [24, 16],
    "mlp.up_proj.weight": [24, 16],
    "mlp.down_proj.weight": [16, 24],
    "final_layernorm.weight": [16],
}
BLOCK = 128


def tensors_in(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  no dict: it can't be iterated
    return found


def official_tensors(model):
    """The model's weights under the names and in the pieces of the official checkpoint."""
    official = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("self_attn.sinks"):
            official[name.replace("sinks", "attention_sink_bias")] = tensor
        elif name.endswith("mlp.experts.gate_up_proj"):
            for expert, both in enumerate(tensor):
                gate, up = both.chunk(2)
                official[name.replace("gate_up_proj", f"{expert}.gate_proj.weight")] = gate
                official[name.replace("gate_up_proj", f"{expert}.up_proj.weight")] = up
        elif name.endswith("mlp.experts.down_proj"):
            official |= {name.replace("down_proj", f"{e}.down_proj.weight"): part for e, part in enumerate(tensor)}
        else:
            official[name] = tensor
    return {name: tensor.contiguous() for name, tensor in official.items()}


def assert_same_weights(actual, expected):
    assert actual.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(actual.state_dict()[name], tensor), name


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(path)
    return path


@pytest.fixture
def warnings_of(caplog):
    """`warnings_of(load)`: the result of `load()` and the text of the warnings that our code gave."""

    def run(load):
        with caplog.at_level(logging.WARNING):
            result = load()
        return result, "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("mimo_hf"))

    return run


@pytest.mark.parametrize("num_heads", [1, 3])
def test_heads_are_written_under_the_official_names(tiny_model, tmp_path, num_heads):
    tiny_model(num_mtp_layers=num_heads).save_pretrained(tmp_path)
    written = {name: list(tensor.shape) for name, tensor in tensors_in(tmp_path).items() if "mtp" in name}
    expected = {f"model.mtp.layers.{k}.{name}": HEAD_SHAPES[name] for k in range(num_heads) for name in HEAD_SHAPES}
    assert len(expected) == 14 * num_heads
    assert written == expected


def test_every_tensor_is_written_as_in_the_official_checkpoint(model, folder):
    written, expected = tensors_in(folder), official_tensors(model)
    assert written.keys() == expected.keys()
    assert "model.layers.1.mlp.experts.5.gate_proj.weight" in expected
    for name, tensor in expected.items():
        assert torch.equal(written[name], tensor), name


def test_loading_gives_the_same_weights_and_no_warning(model, folder, warnings_of):
    (loaded, info), warnings = warnings_of(
        lambda: MiMoV2FlashForCausalLM.from_pretrained(folder, output_loading_info=True)
    )
    assert_same_weights(loaded, model)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert warnings == ""


def test_loading_an_official_folder_gives_the_same_weights(model, folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    tensors = official_tensors(model)
    heads = {name: tensors.pop(name) for name in list(tensors) if ".mtp." in name}
    save_file(tensors, tmp_path / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    save_file(heads, tmp_path / "model_mtp.safetensors", metadata={"format": "pt"})
    index = dict.fromkeys(tensors, "model-00001-of-00002.safetensors") | dict.fromkeys(heads, "model_mtp.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert_same_weights(MiMoV2FlashForCausalLM.from_pretrained(tmp_path), model)


def test_saving_what_was_loaded_writes_the_same_file(folder, tmp_path):
    MiMoV2FlashForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    before, after = tensors_in(folder), tensors_in(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_shards(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert_same_weights(MiMoV2FlashForCausalLM.from_pretrained(tmp_path), model)


def test_bf16_weights_come_back_exactly_and_the_router_bias_stays_fp32(tiny_model, tmp_path):
    model = tiny_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = MiMoV2FlashForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert loaded.mtp_heads[2].eh_proj.weight.dtype == torch.bfloat16
    assert loaded.model.layers[1].mlp.gate.e_score_correction_bias.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


@torch.no_grad()
def test_upstream_loads_the_same_folder(model, folder, tokens):
    upstream, info = UpstreamModel.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"]
    assert_close(upstream(tokens(2, 9)).logits, model(tokens(2, 9)).logits, rtol=0, atol=1e-5)


def test_auto_class_gives_ours_after_register(model, folder):
    mimo_hf.register()
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is MiMoV2FlashForCausalLM
    assert_same_weights(loaded, model)


def test_the_backbone_alone_has_the_heads_too(model, folder):
    mimo_hf.register()
    backbone, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(backbone) is mimo_hf.MiMoV2FlashModel
    assert not info["missing_keys"]
    assert_same_weights(backbone, model.model)


def test_tied_embeddings_come_back_tied(tiny_model, tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    loaded = MiMoV2FlashForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert_same_weights(loaded, model)


def test_missing_heads_are_named_in_a_warning(tiny_model, tmp_path, warnings_of):
    without = tiny_model(num_mtp_layers=0)
    without.save_pretrained(tmp_path)
    loaded, warnings = warnings_of(lambda: MiMoV2FlashForCausalLM.from_pretrained(tmp_path, num_mtp_layers=2))
    assert "28" in warnings
    assert "model.mtp.layers.1.eh_proj.weight" in warnings
    assert torch.equal(loaded.lm_head.weight, without.lm_head.weight)
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())


def test_ignored_heads_are_named_with_how_to_enable_them(model, folder, warnings_of, tokens):
    loaded, warnings = warnings_of(lambda: MiMoV2FlashForCausalLM.from_pretrained(folder, num_mtp_layers=0))
    assert "model.mtp.layers.0.eh_proj.weight" in warnings
    assert "num_mtp_layers" in warnings
    assert not any(".mtp." in name for name in loaded.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(tokens(1, 9)).logits, model(tokens(1, 9)).logits)


def test_extra_heads_are_named(model, folder, warnings_of):
    loaded, warnings = warnings_of(lambda: MiMoV2FlashForCausalLM.from_pretrained(folder, num_mtp_layers=2))
    assert "14 MTP tensors" in warnings
    assert "model.mtp.layers.2.eh_proj.weight" in warnings
    assert "model.mtp.layers.1." not in warnings
    for k in range(2):
        for name, tensor in model.mtp_heads[k].state_dict().items():
            assert torch.equal(loaded.mtp_heads[k].state_dict()[name], tensor)


def test_replicated_heads_are_saved_too(folder, tmp_path, warnings_of):
    model = MiMoV2FlashForCausalLM.from_pretrained(folder)
    model.replicate_mtp_heads(4)
    model.save_pretrained(tmp_path)
    assert sum(".mtp." in name for name in tensors_in(tmp_path)) == 14 * 4
    loaded, warnings = warnings_of(lambda: MiMoV2FlashForCausalLM.from_pretrained(tmp_path))
    assert warnings == ""
    assert_same_weights(loaded, model)


def quantise(weight):
    """Rounded to e4m3 in blocks: the stored weight, its `weight_scale_inv`, and the value that both stand for."""
    rows, columns = (size // BLOCK for size in weight.shape)
    stored = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(rows, columns)
    value = torch.empty(weight.shape)
    for i in range(rows):
        for j in range(columns):
            block = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
            scales[i, j] = weight[block].abs().max() / 448
            stored[block] = (weight[block] / scales[i, j]).to(torch.float8_e4m3fn)
            value[block] = stored[block].float() * scales[i, j]
    return stored, scales, value


FP8_NAMES = tuple(f"{part}_proj.weight" for part in ("q", "k", "v", "gate", "up", "down"))


@pytest.fixture(scope="module")
def fp8(tiny_model, tmp_path_factory):
    """A folder in the official FP8 layout, the float model it was made from, and the values that it stands for."""
    model = tiny_model(
        num_hidden_layers=2,
        layer_types=["full_attention", "sliding_attention"],
        mlp_layer_types=["dense", "sparse"],
        hidden_size=256,
        intermediate_size=256,
        moe_intermediate_size=128,
        head_dim=128,
        v_head_dim=128,
        n_routed_experts=3,
        num_mtp_layers=1,
    )
    path = tmp_path_factory.mktemp("fp8")
    values, tensors = {}, {}
    for name, tensor in official_tensors(model).items():
        if name.endswith(FP8_NAMES):
            tensors[name], tensors[f"{name}_scale_inv"], values[name] = quantise(tensor)
        else:
            kept = tensor if name.endswith("e_score_correction_bias") else tensor.to(torch.bfloat16)
            tensors[name], values[name] = kept, kept.float()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    attentions = [*(f"model.layers.{layer}" for layer in range(2)), "model.mtp.layers.0"]
    config["dtype"] = "bfloat16"
    config["quantization_config"] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
        "ignored_layers": [f"{prefix}.self_attn.o_proj" for prefix in attentions],
    }
    (path / "config.json").write_text(json.dumps(config))
    return path, model, values


def test_fp8_weights_are_dequantised_on_cpu(fp8, warnings_of):
    path, model, values = fp8
    loaded, warnings = warnings_of(lambda: MiMoV2FlashForCausalLM.from_pretrained(path))
    assert warnings == ""
    assert loaded.dtype == torch.bfloat16
    found = official_tensors(loaded)
    assert found.keys() == values.keys()
    for name, tensor in official_tensors(model).items():
        exact = name.endswith("e_score_correction_bias")
        assert torch.equal(found[name], values[name].to(torch.float32 if exact else torch.bfloat16)), name
        # Three bits of mantissa, seven bits in bf16: off by a sixteenth, apart from the smallest numbers of a block.
        rounding = tensor.abs() * (1 / 16 + 1 / 128) + tensor.abs().max() / 448 * 2**-9
        assert ((found[name] - tensor).abs() <= rounding).all(), name


@torch.no_grad()
def test_an_fp8_checkpoint_predicts_what_its_float_model_does(fp8, tokens):
    path, model, _ = fp8
    loaded = MiMoV2FlashForCausalLM.from_pretrained(path).float()
    ids = tokens(1, 12)
    assert loaded.mtp_heads[0].self_attn.sinks.std() > 0.1
    pairs = [(loaded(ids).logits, model(ids).logits), (loaded.mtp_logits(ids)[0], model.mtp_logits(ids)[0])]
    for rounded, exact in pairs:
        assert 0 < (rounded - exact).norm() / exact.norm() < 0.15


def test_an_fp8_checkpoint_decodes_with_its_heads(fp8, tokens):
    loaded = MiMoV2FlashForCausalLM.from_pretrained(fp8[0])
    output = loaded.generate(tokens(1, 6), use_mtp=True, max_new_tokens=8, do_sample=False)
    assert torch.equal(output, loaded.generate(tokens(1, 6), max_new_tokens=8, do_sample=False))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_a_dequantised_model_has_one_dtype_and_is_saved_in_it(fp8, dtype, tokens, tmp_path):
    path, _, values = fp8
    loaded = MiMoV2FlashForCausalLM.from_pretrained(path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert loaded(tokens(1, 6)).logits.dtype == dtype
    loaded.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == values.keys()
    for name, value in values.items():
        exact = name.endswith("e_score_correction_bias")
        assert torch.equal(saved[name], value.to(torch.float32 if exact else dtype)), name
    again = MiMoV2FlashForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(tokens(1, 6)).logits, loaded(tokens(1, 6)).logits)
