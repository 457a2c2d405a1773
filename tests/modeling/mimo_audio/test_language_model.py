"""The speech-text model: files, its forward pass against loops, what sees what, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoModelForTextToWaveform, DynamicCache, Qwen2Config

import mimo_hf
from mimo_hf.modeling.mimo_audio.modeling_mimo_audio import MiMoAudioForConditionalGeneration

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
RELEASED = {  # config.json of the released models, with `rms_norm_eps` as one finds it there
    "architectures": ["MiMoAudioModel"],
    "model_type": "qwen2",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 11008,
    "vocab_size": 151680,
    "max_position_embeddings": 8192,
    "rope_theta": 640000,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": True,
    "tie_word_embeddings": False,
    "speech_vocab_size": "1025-1025-129-129-129-129-129-129",
    "speech_zeroemb_idx": "1024-1024-128-128-128-128-128-128",
    "delay_pattern": "0-1-2-3-4-5-6-7",
    "group_size": 4,
    "audio_channels": 8,
    "local_dim": 1024,
    "local_layers": 16,
    "local_attn_heads": 64,
    "local_ffn_dim": 4096,
    "local_attn_dropout": 0.1,
    "input_local_layers": 6,
    "input_local_dim": 1024,
    "input_full_attention": True,
}
LAYER = {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight"}
LAYER |= {f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in ("weight", "bias")}
LAYER |= {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}


def official_names(layers, patch_decoder_layers, patch_encoder_layers, channels):
    names = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    names |= {"speech_group_downcast.weight", "hidden_states_downcast.weight"}
    trunks = {
        "model": layers,
        "local_transformer": patch_decoder_layers,
        "input_local_transformer": patch_encoder_layers,
    }
    for trunk, depth in trunks.items():
        names |= {f"{trunk}.norm.weight"} | {f"{trunk}.layers.{i}.{name}" for i in range(depth) for name in LAYER}
    for channel in range(channels):
        names |= {f"local_transformer_lm_heads.{channel}.weight", f"speech_embeddings.{channel}.weight"}
    return names


@pytest.fixture(scope="module")
def released():
    """The released shape without memory for it."""
    config = mimo_hf.MiMoAudioConfig(
        **{name: RELEASED[name] for name in RELEASED if name not in ("architectures", "model_type")}
    )
    with torch.device("meta"):
        return MiMoAudioForConditionalGeneration(config)


def test_the_released_shape_has_the_published_names_and_number_of_parameters(released):
    shapes = {name: list(tensor.shape) for name, tensor in released.state_dict().items()}
    assert set(shapes) == official_names(36, 16, 6, 8)
    assert sum(parameter.numel() for parameter in released.parameters()) == 8_018_587_648
    assert shapes["lm_head.weight"] == [151680, 4096]
    assert shapes["speech_group_downcast.weight"] == [4096, 4096]
    assert shapes["hidden_states_downcast.weight"] == [1024, 4096]
    assert shapes["speech_embeddings.0.weight"] == [1025, 1024]
    assert shapes["local_transformer_lm_heads.7.weight"] == [129, 1024]
    assert shapes["local_transformer.layers.0.mlp.up_proj.weight"] == [4096, 1024]
    assert shapes["input_local_transformer.layers.0.mlp.up_proj.weight"] == [4096, 1024]


def test_defaults_are_the_released_values():
    config = mimo_hf.MiMoAudioConfig()
    for name, value in RELEASED.items():
        if name not in ("architectures", "model_type", "rope_theta"):
            assert getattr(config, name) == value, name
    assert config.rope_parameters["rope_theta"] == RELEASED["rope_theta"]
    for local in (config.patch_encoder_config, config.patch_decoder_config):
        assert local.rope_parameters["rope_theta"] == RELEASED["rope_theta"]
        assert (local.attention_dropout, local.num_key_value_heads) == (0.1, 64)


def test_a_folder_in_the_official_layout_loads_whole(tmp_path, speech_lm, speech_rows):
    model = speech_lm()
    fields = {name: value for name, value in model.config.to_diff_dict().items() if not name.endswith("_loss_weights")}
    fields |= {"model_type": "qwen2", "architectures": ["MiMoAudioModel"], "rms_norm_eps": 3e-3, "rope_theta": 5000.0}
    fields.pop("rope_parameters", None)
    fields["audio_loss_weights"] = [12, 8, 6]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save_file(
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    assert type(AutoConfig.from_pretrained(tmp_path)) is Qwen2Config  # what the file says it is
    loaded, info = MiMoAudioForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert [info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")] == [set()] * 3
    for config in (loaded.config, loaded.local_transformer.config, loaded.input_local_transformer.config):
        assert (config.rms_norm_eps, config.rope_parameters["rope_theta"]) == (3e-3, 5000.0)
    assert loaded.generation_config.eos_token_id == [37, 36]
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_saving_and_loading_changes_nothing(tmp_path, speech_lm, speech_rows):
    mimo_hf.register()
    model = speech_lm(input_local_dim=8)
    model.generation_config.audio_temperature = 0.7
    model.save_pretrained(tmp_path)
    ids, codes = speech_rows(model.config, 2, 9)
    expected = model(ids, codes)
    for auto in (MiMoAudioForConditionalGeneration, AutoModelForMultimodalLM, AutoModelForTextToWaveform):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is MiMoAudioForConditionalGeneration
        assert loaded.generation_config.audio_temperature == 0.7
        assert loaded.generation_config.eos_token_id == [37, 36]
        found = loaded(ids, codes)
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.patch_hidden_states, expected.patch_hidden_states)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"input_local_dim": 8}, {"input_full_attention": False}, {"group_size": 4, "delay_pattern": "1-0-4"}],
    ids=str,
)
def test_forward_is_that_of_loops(speech_lm, speech_oracle, speech_rows, attention, changes):
    model = speech_lm(attention, **changes)
    ids, codes = speech_rows(model.config, 2, 8)
    output = model(ids, codes)
    for row in range(2):
        oracle = speech_oracle(model)
        assert_close(output.logits[row].double(), torch.tensor(oracle.text_logits(ids[row], codes[row])), **CLOSE)
        assert_close(
            output.patch_hidden_states[row].double(), torch.tensor(oracle.patch_states(ids[row], codes[row])), **CLOSE
        )


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_frames_of_a_patch_see_each_other_both_ways_and_no_other_patch(speech_lm, speech_rows, attention):
    model = speech_lm(attention)
    _, codes = speech_rows(model.config, 1, 6)
    encoder, patches = model.input_local_transformer, codes[0]
    channels = range(model.config.audio_channels)

    def states(patches):
        return encoder(model._embed_codes({c: patches[..., c] for c in channels}))

    before = states(patches)
    for frame in range(model.config.group_size):
        changed = patches.clone()
        changed[2, frame, 0] = (changed[2, frame, 0] + 1) % 6
        moved = (states(changed) - before).abs().amax(dim=-1)
        assert (moved[2] > 1e-4).all()
        assert (moved[[0, 1, 3, 4, 5]] == 0).all()


@torch.no_grad()
def test_switching_the_attention_reaches_the_transformers_inside_patches(speech_lm, speech_rows):
    model = speech_lm("sdpa")
    ids, codes = speech_rows(model.config, 1, 8)
    expected = model(ids, codes).logits
    model.set_attn_implementation("eager")
    assert model.local_transformer.config._attn_implementation == "eager"
    assert model.input_local_transformer.layers[0].self_attn.config._attn_implementation == "eager"
    assert_close(model(ids, codes).logits, expected, **CLOSE)


@torch.no_grad()
def test_positions_of_text_ignore_their_codes_and_zero_ids_weigh_nothing(speech_lm, speech_rows):
    model = speech_lm()
    ids, codes = speech_rows(model.config, 2, 9)
    expected = model(ids, codes).logits
    others = codes.clone()
    others[ids != model.config.empty_token_id] = 10**6
    assert torch.equal(model(ids, others).logits, expected)
    zero = codes.clone()
    zero[..., 1] = model.config.speech_zero_ids[1]
    silent = model(ids, zero).logits
    model.speech_embeddings[1].weight.fill_(7.0)
    assert torch.equal(model(ids, zero).logits, silent)


@torch.no_grad()
def test_no_position_sees_a_later_one(speech_lm, speech_rows):
    model = speech_lm()
    ids, codes = speech_rows(model.config, 1, 10)
    ids[0, 6], expected = model.config.empty_token_id, None
    expected = model(ids, codes)
    changed = codes.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 4
    found = model(ids, changed)
    for name in ("logits", "patch_hidden_states"):
        moved = (getattr(found, name) - getattr(expected, name)).abs().amax(dim=-1)[0]
        assert (moved[:6] == 0).all()
        assert (moved[6:] > 1e-5).all()


@torch.no_grad()
def test_padding_on_the_left_changes_nothing(speech_lm, speech_rows):
    model = speech_lm()
    ids, codes = speech_rows(model.config, 1, 7)
    padded = torch.cat([torch.tensor([[5, 32, 5]]), ids], dim=1), torch.cat([codes[:, :3], codes], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 7])
    assert_close(model(*padded, attention_mask=mask).logits[:, 3:], model(ids, codes).logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_step_by_step_with_a_cache_is_the_whole_pass(speech_lm, speech_rows, attention):
    model = speech_lm(attention)
    ids, codes = speech_rows(model.config, 2, 10)
    expected = model(ids, codes)
    cache, logits, states = DynamicCache(config=model.config), [], []
    for part in (slice(0, 4), *(slice(i, i + 1) for i in range(4, 10))):
        output = model(ids[:, part], codes[:, part], past_key_values=cache, use_cache=True)
        logits.append(output.logits)
        states.append(output.patch_hidden_states)
    assert_close(torch.cat(logits, dim=1), expected.logits, atol=1e-4, rtol=0)
    assert_close(torch.cat(states, dim=1), expected.patch_hidden_states, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_last_positions_alone(speech_lm, speech_rows):
    model = speech_lm()
    ids, codes = speech_rows(model.config, 2, 6)
    whole, last = model(ids, codes), model(ids, codes, logits_to_keep=2)
    assert_close(last.logits, whole.logits[:, -2:])
    assert_close(last.patch_hidden_states, whole.patch_hidden_states[:, -2:])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_model_computes_in_its_own_type(speech_lm, speech_rows, dtype):
    model = speech_lm().to(dtype)
    ids, codes = speech_rows(model.config, 1, 6)
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    model.generate(ids, audio_codes=codes, max_new_tokens=4)
    assert set(seen) == {dtype}


@torch.no_grad()
def test_a_model_without_audio_reads_text_as_its_trunk_does(speech_lm):
    model = speech_lm()
    ids = torch.tensor([[1, 2, 3, 4]])
    assert_close(model(ids).logits, model.lm_head(model.model(ids).last_hidden_state))
    assert_close(model(inputs_embeds=model.embed(ids)).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"delay_pattern": "0-1"}, "`delay_pattern` must have one number for each of the `audio_channels=3`"),
        ({"delay_pattern": "0-x-1"}, "`delay_pattern` must be whole numbers separated by dashes"),
        ({"delay_pattern": [0, -1, 2]}, r"`delay_pattern` must not be negative; got \[0, -1, 2\]"),
        ({"speech_zeroemb_idx": "6-6-3"}, "`speech_zeroemb_idx` must be the last id .* got 3 of 5 in channel 2"),
        ({"local_attn_heads": 5}, r"`local_dim` must be a multiple of 2 \* `local_attn_heads=5`"),
        ({"input_local_dim": 6}, "`input_local_dim` must be a multiple of .* got 6"),
        ({"group_size": 0}, "`group_size` must be at least 1; got 0"),
        ({"audio_loss_weights": [1.0]}, "`audio_loss_weights` must be 3 numbers"),
        ({"empty_loss_weight": -1.0}, "`empty_loss_weight` must be at least 0"),
        ({"text_loss_weight": 0.0, "audio_loss_weights": [0, 0, 0]}, "must not all be 0"),
        ({"empty_token_id": 40}, r"`empty_token_id` must be an id of <\|empty\|> below `vocab_size=40`; got 40"),
        ({"eot_token_id": 30}, "`eot_token_id` must differ from `sosp_token_id`; got 30"),
        ({"attention_bias": False}, "`attention_bias` must be True"),
    ],
)
def test_a_configuration_of_no_model_is_refused(speech_config, changes, says):
    with pytest.raises(ValueError, match=says):
        speech_config(**changes)


def test_one_number_holds_for_all_channels(speech_config):
    config = speech_config(speech_vocab_size=9, speech_zeroemb_idx="8", delay_pattern=[0, 0, 3])
    assert (config.speech_vocab_sizes, config.speech_zero_ids, config.delays) == ([9] * 3, [8] * 3, [0, 0, 3])
    assert config.num_patch_steps == 5


def test_inputs_that_do_not_fit_are_refused(speech_lm, speech_rows):
    model = speech_lm()
    ids, codes = speech_rows(model.config, 2, 6)
    count = int((ids == 32).sum())
    with pytest.raises(ValueError, match=rf"`audio_codes` must be given, as `input_ids` has {count} `<\|empty\|>`"):
        model(ids)
    with pytest.raises(
        ValueError, match=r"`audio_codes` must be \[batch, length, .*\] = \[2, 6, 2, 3\]; got the shape \[2, 5, 2, 3\]"
    ):
        model(ids, codes[:, :5])
    with pytest.raises(ValueError, match=r"got the shape \[2, 6, 2, 2\]"):
        model(ids, codes[..., :2])
    ids[0, 0], wrong = 32, codes.clone()
    wrong[0, 0, 1, 2] = 5
    with pytest.raises(ValueError, match=r"`audio_codes` must be 0 to 4 in channel 2; got 5 at \[0, 1, 2\]"):
        model(ids, wrong)
    with pytest.raises(ValueError, match="One of `input_ids` and `inputs_embeds` must be given"):
        model(audio_codes=codes)
    with pytest.raises(ValueError, match="`logits_to_keep` must be 0 with `labels`; got 1"):
        model(ids, codes, labels=ids, logits_to_keep=1)
