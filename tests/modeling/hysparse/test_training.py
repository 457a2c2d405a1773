"""Training HySparse: where gradients go, checkpointing, LoRA, Trainer, and files."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM, Trainer, TrainingArguments

import mimo_hf
from mimo_hf import HySparseConfig, HySparseForCausalLM


def gradients(model, ids, labels=None):
    model.zero_grad()
    loss = model(ids, labels=ids if labels is None else labels).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_the_loss_is_the_cross_entropy_of_the_next_token(small_model, tokens):
    model, ids = small_model(), tokens(2, 20)
    labels = ids.clone()
    labels[0, :7] = -100
    logits = model(ids).logits[:, :-1].log_softmax(-1)
    wanted = labels[:, 1:]
    chosen = logits.gather(-1, wanted.clamp(min=0)[..., None])[..., 0][wanted >= 0]
    assert_close(model(ids, labels=labels).loss, -chosen.mean().float(), check_dtype=False)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant, small_model, tokens):
    model, ids = small_model(num_hidden_layers=7).train(), tokens(2, 40)  # two full layers that serve sparse ones
    loss, expected = gradients(model, ids)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    again, found = gradients(model, ids)
    assert again == loss
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_every_parameter_learns(small_model, tokens):
    _, found = gradients(small_model(), tokens(2, 40))
    assert [name for name, gradient in found.items() if gradient.eq(0).all()] == []


def test_keys_of_a_full_layer_learn_from_the_sparse_layers(small_model, tokens):
    model, ids = small_model(gate_bias=True), tokens(2, 40)
    _, with_sparse = gradients(model, ids)
    for layer in (1, 2):
        gate = model.model.layers[layer].self_attn.sparse_gate
        gate.weight.data.zero_()
        gate.bias.data.fill_(-1e9)
    _, without = gradients(model, ids)
    for name in ("k_proj", "v_proj"):
        name = f"model.layers.0.self_attn.{name}.weight"
        assert (with_sparse[name] - without[name]).abs().max() > 1e-4 * with_sparse[name].abs().max()


def test_logits_do_not_depend_on_the_cache(small_model, tokens):
    model, ids = small_model(), tokens(2, 40)
    with torch.no_grad():
        assert torch.equal(model(ids, use_cache=False).logits, model(ids, use_cache=True).logits)
        assert model(ids, use_cache=False).past_key_values is None
        assert_close(model(ids, logits_to_keep=3).logits, model(ids).logits[:, -3:])


def test_switches_change_the_parameters_as_they_say(small_model):
    def names(**changes):
        attention = small_model(**changes).model.layers[1].self_attn
        return {name for name, _ in attention.named_parameters()}

    everything = names()
    assert everything == {
        *(f"{name}_proj.weight" for name in "qkvo"),
        "sparse_gate.weight",
        "swa_gate.weight",
        "sparse_sinks",
        "swa_sinks",
    }
    own_keys = {"k_proj.weight", "v_proj.weight"}
    gates = {"sparse_gate.weight", "swa_gate.weight"}
    assert names(swa_shares_kv=True) == everything - own_keys
    assert names(use_swa_branch=False) == everything - own_keys - gates - {"swa_sinks"}
    assert names(use_sparse_branch=False) == everything - gates - {"sparse_sinks"}
    assert names(use_sparse_sink=False) == everything - {"sparse_sinks"}
    assert names(use_swa_sink=False) == everything - {"swa_sinks"}


def test_shapes_of_the_parameters(small_model):
    layer = small_model(swa_num_key_value_heads=4).model.layers[1].self_attn
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    assert shapes == {
        "q_proj.weight": (32, 32),
        "k_proj.weight": (32, 32),
        "v_proj.weight": (24, 32),
        "o_proj.weight": (32, 24),
        "sparse_gate.weight": (4, 32),
        "swa_gate.weight": (4, 32),
        "sparse_sinks": (4,),
        "swa_sinks": (4,),
    }
    wide = small_model(gate_type="elementwise").model.layers[1].self_attn
    assert wide.swa_gate.weight.shape == (24, 32)


def test_gates_start_half_open_and_sinks_at_zero():
    model = HySparseForCausalLM(HySparseConfig(vocab_size=9, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                                               num_key_value_heads=1, intermediate_size=8, gate_bias=True))  # fmt: skip
    layer = model.model.layers[1].self_attn
    for name in ("sparse_gate.weight", "swa_gate.bias", "sparse_sinks", "swa_sinks"):
        assert layer.get_parameter(name).eq(0).all()
    assert layer.q_proj.weight.std() > 0


# Adapters, trainers, files


def test_lora_trains_and_merges(small_model, tokens):
    peft = pytest.importorskip("peft")
    model, ids = small_model(), tokens(2, 30)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(copy.deepcopy(model), config).double().train()
    adapted.gradient_checkpointing_enable()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
    adapted.eval()
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        merged = adapted.merge_and_unload()
        assert_close(merged(ids).logits, expected)
        assert not torch.allclose(expected, model(ids).logits)


def test_trainer_lowers_the_loss(small_model, tokens, tmp_path):
    model = small_model(dtype=torch.float32, initializer_range=0.1)
    ids = tokens(8, 24)
    arguments = TrainingArguments(
        tmp_path, max_steps=12, learning_rate=1e-2, per_device_train_batch_size=4, gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False}, logging_steps=1, report_to=[], use_cpu=True,
        save_strategy="no", seed=0,
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in ids]
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]


def test_trl_trains_rows_without_padding_as_it_trains_padded_ones(small_model, tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    rows = [{"input_ids": [(7 * i + j) % 50 for j in range(6 + 3 * i)]} for i in range(4)]
    losses = []
    for padding_free in (False, True):
        arguments = trl.SFTConfig(
            tmp_path, max_steps=1, per_device_train_batch_size=4, padding_free=padding_free, max_length=None, bf16=False,
            use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, gradient_checkpointing=True, pad_token="0",
        )  # fmt: skip
        trainer = trl.SFTTrainer(
            small_model(dtype=torch.float32),
            arguments,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=digits_tokenizer(),
        )
        batch = next(iter(trainer.get_train_dataloader()))
        assert ("position_ids" in batch) == padding_free
        trainer.train()
        losses.append(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def digits_tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {str(number): number for number in range(50)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")), pad_token="0", eos_token="1"
    )


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"swa_shares_kv": True}, {"qk_norm": True}])
def test_a_saved_model_comes_back_through_the_auto_classes(changes, small_model, tokens, tmp_path):
    mimo_hf.register()
    model, ids = small_model(dtype=torch.float32, **changes), tokens(1, 30)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    trunk = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is HySparseForCausalLM
    assert [list(found) for found in info.values() if found] == []
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
        assert torch.equal(trunk.eval()(ids).last_hidden_state, model.model(ids).last_hidden_state)


def test_experts_train_and_come_back(small_model, tokens, tmp_path):
    experts = {"mlp_layer_types": ["dense", *["sparse"] * 4], "n_routed_experts": 4, "num_experts_per_tok": 2}
    model, ids = small_model(dtype=torch.float32, moe_intermediate_size=8, **experts), tokens(1, 30)
    _, found = gradients(model, ids)
    assert found["model.layers.1.mlp.experts.down_proj"].abs().max() > 0
    router_logits = model(ids, output_router_logits=True).router_logits
    assert [tuple(logits.shape) for logits in router_logits] == [(30, 4)] * 4
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        loaded = HySparseForCausalLM.from_pretrained(tmp_path).eval()
        assert_close(loaded(ids).logits, model(ids).logits)


# Inputs that can't be


def test_bad_inputs_are_refused_by_name(small_model, tokens):
    model, ids = small_model(), tokens(1, 12)
    with pytest.raises(ValueError, match="One of `input_ids` and `inputs_embeds` must be given"):
        model()
    with pytest.raises(ValueError, match=r"`attention_mask` must be .*; got \[1, 1, 12, 12\]"):
        model(ids, attention_mask=torch.ones(1, 1, 12, 12))
    with pytest.raises(ValueError, match=r"`attention_mask` must be .* \[1, 12\].*; got \[1, 5\]"):
        model(ids, attention_mask=torch.ones(1, 5))
    holes = torch.ones(1, 12)
    holes[0, 4] = 0
    with pytest.raises(ValueError, match=r"zeros between the tokens of row 0.*Pad on the left"):
        model(ids, attention_mask=holes)


def test_attention_without_sinks_is_refused(small_model):
    with pytest.raises(ValueError, match=r"must not be 'sdpa', which has no sinks; 'hysparse_chunked'"):
        small_model().set_attn_implementation("sdpa")


def test_the_kernel_of_layers_is_no_attention_implementation(small_model):
    with pytest.raises(
        ValueError, match=r"got 'mimo-hf/hysparse-attn', a kernel that replaces layers.*register_layers"
    ):
        small_model().set_attn_implementation("mimo-hf/hysparse-attn")


def test_not_a_number_stays_in_its_row(small_model, tokens):
    model = small_model()
    embeddings = model.model.embed_tokens(tokens(2, 30)).detach()
    alone = model(inputs_embeds=embeddings[:1]).logits
    embeddings[1, 4] = torch.nan
    logits = model(inputs_embeds=embeddings).logits
    assert_close(logits[:1], alone)
    assert logits[1].isnan().any()


def test_the_output_is_made_of_the_attention_weights_that_are_handed_out(small_model, tokens):
    model = small_model()
    model.set_attn_implementation("eager")
    output = model(tokens(2, 12), output_attentions=True)
    for weights in output.attentions:
        weights.retain_grad()
    output.logits[:, -1, 7].sum().backward()
    assert len(output.attentions) == 5
    assert all(weights.grad.abs().sum() > 0 for weights in output.attentions)
