"""MiMo-7B: Qwen2's trunk, MTP layers as the official checkpoints have them, losses and files."""

import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Trainer, TrainingArguments

import mimo_hf
from mimo_hf import MiMoConfig, MiMoForCausalLM

OFFICIAL_CONFIG = {  # config.json of XiaomiMiMo/MiMo-7B-RL
    "architectures": ["MiMoForCausalLM"],
    "model_type": "mimo",
    "vocab_size": 151680,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "attention_bias": True,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 640000,
    "max_position_embeddings": 32768,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "num_nextn_predict_layers": 1,
}
MTP_SHAPES = {  # of the tiny configuration: 16 hidden, 24 intermediate, 4 query and 2 key-value heads of 8 channels
    "token_layernorm.weight": [16],
    "hidden_layernorm.weight": [16],
    "input_proj.weight": [16, 32],
    "input_layernorm.weight": [16],
    "post_attention_layernorm.weight": [16],
    "self_attn.q_proj.weight": [32, 16],
    "self_attn.q_proj.bias": [32],
    "self_attn.k_proj.weight": [16, 16],
    "self_attn.k_proj.bias": [16],
    "self_attn.v_proj.weight": [16, 16],
    "self_attn.v_proj.bias": [16],
    "self_attn.o_proj.weight": [16, 32],
    "mlp.gate_proj.weight": [24, 16],
    "mlp.up_proj.weight": [24, 16],
    "mlp.down_proj.weight": [16, 24],
    "final_layernorm.weight": [16],
}


def qwen2_of(model, attention="eager"):
    """transformers' Qwen2 with copies of the trunk's weights."""
    fields = {
        name: getattr(model.config, name) for name in Qwen2Config.__dataclass_fields__ if hasattr(model.config, name)
    }
    config = Qwen2Config(**{n: v for n, v in fields.items() if not n.startswith("_")}, head_dim=model.config.head_dim)
    qwen2 = Qwen2ForCausalLM._from_config(config, attn_implementation=attention)
    qwen2.load_state_dict({n: t for n, t in model.state_dict().items() if ".mtp_layers." not in n}, strict=True)
    return qwen2.eval()


@torch.no_grad()
def states_of(model, ids, source="pre_norm"):
    """What the last layer of Qwen2 puts out for one sequence, before or after the final norm, `[length, hidden]`."""
    qwen2, seen = qwen2_of(model), {}
    qwen2.model.layers[-1].register_forward_hook(lambda module, args, output: seen.update(pre_norm=output))
    qwen2.model.norm.register_forward_hook(lambda module, args, output: seen.update(post_norm=output))
    qwen2(ids, use_cache=False)
    return seen[source][0]


# The trunk


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_trunk_is_qwen2(mimo_model, tokens, attention):
    model = mimo_model(attention=attention)
    qwen2 = qwen2_of(model)
    ids = tokens(2, 11)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    assert_close(model(ids).logits, qwen2(ids).logits, rtol=0, atol=1e-5)
    ours, theirs = model(ids, attention_mask=mask), qwen2(ids, attention_mask=mask)
    assert_close(ours.logits[mask.bool()], theirs.logits[mask.bool()], rtol=0, atol=1e-5)
    whole = model(ids).logits
    first = model(ids[:, :6], use_cache=True)
    then = model(ids[:, 6:], past_key_values=first.past_key_values)
    assert_close(torch.cat([first.logits, then.logits], dim=1), whole, rtol=0, atol=1e-5)
    assert torch.equal(
        model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False),
        qwen2.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False),
    )


@torch.no_grad()
def test_flex_attention_is_kept(mimo_model, tokens):
    flex, sdpa = mimo_model(attention="flex_attention", head_dim=16), mimo_model(head_dim=16)
    # Uncompiled: on a CPU, torch 2.13's compiled flex_attention reads memory that nobody wrote from the second length on, for
    # transformers' own Qwen2 as well.
    with torch.compiler.set_stance("force_eager"):
        assert_close(flex(tokens(2, 9)).logits, sdpa(tokens(2, 9)).logits, rtol=0, atol=1e-4)
        for ours, theirs in zip(flex.mtp_logits(tokens(2, 9)), sdpa.mtp_logits(tokens(2, 9)), strict=True):
            assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_attention_kinds_of_qwen2_are_declared():
    assert MiMoForCausalLM._supports_flash_attn
    assert MiMoForCausalLM._supports_flex_attn
    assert MiMoForCausalLM._supports_sdpa


def test_the_official_configuration_has_the_official_number_of_parameters():
    mimo_hf.register()
    config = AutoConfig.for_model(**OFFICIAL_CONFIG)
    assert type(config) is MiMoConfig
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert type(model) is MiMoForCausalLM
    assert sum(p.numel() for p in model.parameters()) == 7_833_409_536
    assert sum(p.numel() for p in model.mtp_heads.parameters()) == 210_790_400
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 640000.0}
    ours, theirs = MiMoConfig().to_dict(), config.to_dict()
    assert {name for name in ours if ours[name] != theirs[name]} == {"architectures"}


# The MTP layers


@pytest.mark.parametrize("source", ["pre_norm", "post_norm"])
@pytest.mark.parametrize("zero_first", [True, False])
@torch.no_grad()
def test_mtp_layers_equal_a_loop(mimo_model, tokens, mimo_oracle, source, zero_first):
    model = mimo_model(mtp_hidden_source=source, mtp_zero_first_embedding=zero_first)
    ids = tokens(2, 10)
    for row in range(2):
        states = states_of(model, ids[row : row + 1], source)
        for k, logits in enumerate(model.mtp_logits(ids)):
            expected = mimo_oracle(model, k, ids[row], states, zero_first=zero_first).logits
            assert logits.shape == (2, 9 - k, 29)
            assert_close(logits[row].double(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_loop_would_notice_other_wiring(mimo_model, tokens, mimo_oracle):
    model, ids = mimo_model(), tokens(1, 10)
    logits = model.mtp_logits(ids)[0][0].double()
    states = {source: states_of(model, ids, source) for source in ("pre_norm", "post_norm")}
    deviations = [
        (states["post_norm"], {}),
        (states["pre_norm"], {"zero_first": False}),
        (states["pre_norm"], {"embedding_first": True}),
        (states["pre_norm"], {"shift": 0}),
    ]
    for hidden, deviation in deviations:
        assert (logits - mimo_oracle(model, 0, ids[0], hidden, **deviation).logits).abs().max() > 1e-2


@torch.no_grad()
def test_left_padding_changes_no_mtp_logits(mimo_model, tokens):
    model, ids = mimo_model(), tokens(1, 8)
    alone = model.mtp_logits(ids)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(11) >= 3).long()[None]
    for k, logits in enumerate(model.mtp_logits(padded, attention_mask=mask)):
        assert_close(logits[:, 3:], alone[k], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_token_changes_only_the_rows_that_may_know_it(mimo_model, tokens):
    model, ids = mimo_model(), tokens(1, 12)
    for place in range(12):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % 29
        for k, (before, after) in enumerate(zip(model.mtp_logits(ids), model.mtp_logits(other), strict=True)):
            changed = (before - after).abs().amax(dim=-1)[0] > 1e-6
            first = place - 1 - k  # reads the embedding of the token
            assert not changed[: max(first, 0)].any()
            if 0 < first < len(changed):  # row 0 reads no embedding
                assert changed[first]


# Files


def names_in(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= {name: list(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118  no dict: it can't be iterated
    return found


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("max_shard_size", ["10GB", "20KB"])
def test_files_have_the_official_names_and_come_back(mimo_model, tokens, tmp_path, num_layers, max_shard_size):
    model = mimo_model(num_nextn_predict_layers=num_layers)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    written = {name: shape for name, shape in names_in(tmp_path).items() if "mtp" in name}
    assert len(MTP_SHAPES) == 16
    assert written == {
        f"model.mtp_layers.{k}.{n}": shape for k in range(num_layers) for n, shape in MTP_SHAPES.items()
    }
    mimo_hf.register()
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is MiMoForCausalLM
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict() | {"architectures": ["MiMoForCausalLM"]}
    trunk = Qwen2ForCausalLM.from_pretrained(tmp_path, config=qwen2_of(model).config)
    assert_close(trunk(tokens(1, 7)).logits, model(tokens(1, 7)).logits, rtol=0, atol=1e-5)


@pytest.fixture
def trunk_only(mimo_model, tmp_path):
    mimo_model(num_nextn_predict_layers=1).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if "mtp" not in name}
    save_file(tensors, file, {"format": "pt"})
    return tmp_path


def test_missing_mtp_tensors_are_named_and_drafting_with_them_is_refused(trunk_only, tokens, caplog):
    with caplog.at_level(logging.WARNING):
        model = MiMoForCausalLM.from_pretrained(trunk_only)
    assert "model.mtp_layers.0.input_proj.weight" in caplog.text
    with pytest.raises(ValueError, match=r"no values for model\.mtp_layers\.0\.\S+.*Train the heads"):
        model.generate(tokens(1, 5), use_mtp=True, max_new_tokens=4, do_sample=False)
    with pytest.raises(ValueError, match="no values for"):
        model.generate(tokens(2, 5), use_mtp=True, max_new_tokens=4, do_sample=False)


def test_heads_that_were_trained_since_draft(trunk_only, tokens):
    model = MiMoForCausalLM.from_pretrained(trunk_only)
    optimizer = torch.optim.SGD(model.mtp_heads.parameters(), lr=0.1)
    model(tokens(2, 8), labels=tokens(2, 8)).loss.backward()
    optimizer.step()
    expected = model.generate(tokens(1, 5), max_new_tokens=9, do_sample=False)
    assert torch.equal(model.generate(tokens(1, 5), use_mtp=True, max_new_tokens=9, do_sample=False), expected)


def test_a_model_without_mtp_layers_says_how_to_get_them(mimo_model, tokens):
    with pytest.raises(ValueError, match=r"num_mtp_layers=K"):
        mimo_model(num_nextn_predict_layers=0).generate(tokens(1, 6), use_mtp=True, max_new_tokens=4, do_sample=False)


# Training


def cross_entropy(logits, targets):
    """Mean over the targets that are not -100, in a loop."""
    losses = [-row.double().log_softmax(-1)[t] for row, t in zip(logits, targets, strict=True) if t != -100]
    return sum(losses) / len(losses)


def test_the_loss_is_that_of_trunk_and_layers(mimo_model, tokens):
    model = mimo_model(mtp_loss_weight=0.3)
    ids = tokens(2, 9)
    labels = ids.clone()
    labels[0, 3:5] = labels[1, :2] = -100
    with torch.no_grad():
        output = model(ids, labels=labels)
        main = cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        heads = [
            cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 2 + k :].flatten())
            for k, logits in enumerate(model.mtp_logits(ids))
        ]
    assert_close(output.mtp_loss.double(), sum(heads) / 3, rtol=1e-5, atol=1e-6)
    assert_close(output.loss.double(), main + 0.3 * sum(heads) / 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"mtp_loss_weight": 0.0}, {"mtp_train_mode": "trunk"}])
def test_without_mtp_loss_the_loss_is_qwen2s(mimo_model, tokens, change):
    model = mimo_model(**change, attention="eager")
    ids = tokens(2, 9)
    assert torch.equal(model(ids, labels=ids).loss, qwen2_of(model)(ids, labels=ids).loss)


def test_gradients_reach_trunk_and_layers_or_the_layers_alone(mimo_model, tokens):
    for mode in ("joint", "heads"):
        model = mimo_model(mtp_train_mode=mode)
        model(tokens(2, 9), labels=tokens(2, 9)).loss.backward()
        for name, parameter in model.named_parameters():
            if "mtp_layers" in name:
                assert parameter.grad.abs().max() > 0, name
            else:
                assert (parameter.grad is None) == (mode == "heads"), name


def test_frozen_heads_stay_and_the_others_learn(mimo_model, tokens):
    model = mimo_model(num_nextn_predict_layers=1)
    model.replicate_mtp_heads(3)
    model.freeze_mtp_heads([0])
    model(tokens(2, 9), labels=tokens(2, 9)).loss.backward()
    learning = {n.split(".")[2] for n, p in model.named_parameters() if p.grad is not None}
    assert learning == {"1", "2"}
    for name, tensor in model.mtp_heads[0].state_dict().items():
        assert torch.equal(model.mtp_heads[2].state_dict()[name], tensor)


def test_with_all_heads_frozen_the_trunk_is_trained_as_in_reinforcement_learning(mimo_model, tokens):
    model = mimo_model()
    model.freeze_mtp_heads()
    output = model(tokens(2, 9), labels=tokens(2, 9))
    output.loss.backward()
    assert output.mtp_loss is None
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == ("mtp_layers" in name), name
    with pytest.raises(ValueError, match=r"between 0 and 2; got \[5\]"):
        model.freeze_mtp_heads([5])


def test_gradient_checkpointing_changes_no_gradient(mimo_model, tokens):
    gradients = []
    for checkpointing in (False, True):
        model = mimo_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(tokens(2, 9), labels=tokens(2, 9), use_cache=False).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_trainer_trains_heads_only_after_replication(mimo_model, trainer_parts):
    arguments, data, _ = trainer_parts
    model = mimo_model(num_nextn_predict_layers=1)
    model.replicate_mtp_heads(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = data.map(lambda row: {"labels": row["input_ids"]})
    Trainer(model, TrainingArguments(**arguments), train_dataset=data).train()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "mtp_layers" in name}


# Bad input


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_nextn_predict_layers": -1}, r"num_nextn_predict_layers.*got -1"),
        ({"mtp_hidden_source": "last"}, "mtp_hidden_source"),
        ({"mtp_train_mode": "all"}, "mtp_train_mode"),
        ({"mtp_loss_weight": -0.1}, "mtp_loss_weight"),
        ({"attention_bias": False}, "attention_bias"),
        ({"num_attention_heads": 5}, r"num_attention_heads=5.*num_key_value_heads=2"),
        ({"use_sliding_window": True, "sliding_window": 0}, "sliding_window"),
        ({"use_sliding_window": True, "sliding_window": 1}, "at least 2"),
    ],
)
def test_configurations_that_no_model_can_have_are_refused(mimo_model, change, named):
    with pytest.raises(ValueError, match=named):
        mimo_model(**change)
