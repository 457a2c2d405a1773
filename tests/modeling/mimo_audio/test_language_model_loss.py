"""The losses of text and of each channel against loops, and training: checkpointing, Trainer, LoRA."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def cross_entropy(logits, target):
    logits = [float(x) for x in logits]
    top = max(logits)
    return top + math.log(sum(math.exp(x - top) for x in logits)) - logits[target]


@torch.no_grad()
def loop_losses(model, oracle, ids, codes, labels, audio_labels):
    """(text loss, loss of each channel or None) as section 3.2 of arXiv 2512.23808 has them."""
    config = model.config
    text, weights = 0.0, 0.0
    channels = [[] for _ in range(config.audio_channels)]
    for row in range(len(ids)):
        logits, states = oracle.text_logits(ids[row], codes[row]), oracle.patch_states(ids[row], codes[row])
        for t in range(1, ids.shape[1]):
            target = int(labels[row, t])
            if target == -100:
                continue
            weight = config.empty_loss_weight if target == config.empty_token_id else 1.0
            text += weight * cross_entropy(logits[t - 1], target)
            weights += weight
            if target == config.empty_token_id:
                for (frame, channel), scores in oracle.patch_logits(states[t - 1], codes[row, t].tolist()).items():
                    wanted = int(audio_labels[row, t, frame, channel])
                    if wanted != -100:
                        channels[channel].append(cross_entropy(scores, wanted))
    has_audio = any(channels)
    return text / weights, [sum(c) / len(c) for c in channels] if has_audio else None


@pytest.fixture
def batch(speech_lm, speech_rows):
    model = speech_lm()
    ids, codes = speech_rows(model.config, 2, 8)
    ids[0, 3], ids[1, 4], ids[1, 5] = 32, 32, 7
    labels, audio_labels = ids.clone(), codes.clone()
    labels[0, :2] = -100
    labels[1, 6] = -100
    audio_labels[0, 3, 1] = -100
    audio_labels[1, 4, 0, 2] = -100
    return model, ids, codes, labels, audio_labels


@pytest.mark.parametrize("normalised", [True, False])
def test_the_losses_are_those_of_loops(batch, speech_oracle, normalised):
    model, ids, codes, labels, audio_labels = batch
    model.config.normalize_loss_weights = normalised
    text, channels = loop_losses(model, speech_oracle(model), ids, codes, labels, audio_labels)
    output = model(ids, codes, labels=labels, audio_labels=audio_labels)
    assert_close(output.text_loss.item(), text, **CLOSE)
    assert_close(output.audio_loss_per_channel.tolist(), channels, **CLOSE)
    weighted = sum(w * c for w, c in zip([12, 8, 6], channels, strict=True))
    assert_close(output.audio_loss.item(), weighted / 26, **CLOSE)
    assert_close(output.loss.item(), (100 * text + weighted) / (126 if normalised else 1), **CLOSE)


def test_without_audio_labels_the_codes_are_learnt(batch):
    model, ids, codes, labels, _ = batch
    with_labels = model(ids, codes, labels=labels, audio_labels=codes)
    assert_close(model(ids, codes, labels=labels).loss, with_labels.loss)
    embeds = model.embed(ids, codes)
    assert_close(model(inputs_embeds=embeds, labels=labels, audio_labels=codes).loss, with_labels.loss)


def test_the_released_weights_sum_to_136(speech_config):
    weights = speech_config(
        audio_channels=8, audio_loss_weights=None, speech_vocab_size="7", speech_zeroemb_idx="6", delay_pattern="0"
    )
    assert weights.audio_loss_weights == [12, 8, 6, 4, 2, 2, 1, 1]
    assert weights.text_loss_weight + sum(weights.audio_loss_weights) == 136


def finite_gradients(model, output):
    model.zero_grad()
    output.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    return gradients


def test_batches_of_text_alone_audio_alone_or_nothing_have_finite_losses(batch):
    model, ids, codes, labels, _ = batch
    text = ids.where(ids != 32, torch.tensor(3))
    for inputs in ({"audio_codes": codes}, {}):
        output = model(text, labels=text, **inputs)
        assert output.audio_loss is None
        assert_close(output.loss, output.text_loss)
        assert "lm_head.weight" in finite_gradients(model, output)
    output = model(ids, codes, labels=labels.where(labels == 32, torch.tensor(-100)))
    assert "local_transformer_lm_heads.2.weight" in finite_gradients(model, output)
    nothing = model(ids, codes, labels=torch.full_like(ids, -100))
    assert nothing.loss.item() == 0
    finite_gradients(model, nothing)
    silent = model(ids, codes, labels=labels, audio_labels=torch.full_like(codes, -100))
    assert silent.audio_loss.item() == 0
    finite_gradients(model, silent)


def test_stage_one_leaves_the_patch_decoder_alone(batch):
    model, ids, codes, labels, _ = batch
    model.config.audio_loss_weights = [0.0, 0.0, 0.0]
    output = model(ids, codes, labels=labels)
    assert_close(output.loss, output.text_loss)
    gradients = finite_gradients(model, output)
    assert not any(name.startswith(("local_transformer", "hidden_states_downcast")) for name in gradients)
    assert any(name.startswith("input_local_transformer") for name in gradients)


def test_wrong_labels_are_refused(batch):
    model, ids, codes, labels, audio_labels = batch
    with pytest.raises(ValueError, match=r"`audio_labels` must be \[batch, length, .* got the shape \[2, 7, 2, 3\]"):
        model(ids, codes, labels=labels, audio_labels=codes[:, 1:])
    audio_labels[0, 3, 0, 0] = 6
    with pytest.raises(ValueError, match="`audio_labels` must be 0 to 5 or -100 in channel 0; got 6"):
        model(ids, codes, labels=labels, audio_labels=audio_labels)
    with pytest.raises(ValueError, match="`audio_labels` must be given, as `labels` has"):
        model(inputs_embeds=model.embed(ids, codes), labels=labels)


def test_gradient_checkpointing_changes_no_gradient(batch):
    model, ids, codes, labels, _ = batch
    model.train()
    expected = finite_gradients(model, model(ids, codes, labels=labels))
    expected = {name: gradient.clone() for name, gradient in expected.items()}
    model.gradient_checkpointing_enable()
    assert all(
        module.gradient_checkpointing
        for module in (model.model, model.local_transformer, model.input_local_transformer)
    )
    found = finite_gradients(model, model(ids, codes, labels=labels))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert_close(gradient, expected[name], msg=name)


def test_a_trainer_learns_and_averages_micro_batches(tmp_path, batch):
    model, ids, codes, labels, _ = batch
    rows = [
        {"input_ids": i, "audio_codes": c, "labels": wanted} for i, c, wanted in zip(ids, codes, labels, strict=True)
    ]
    losses = []
    for size, accumulated in ((2, 1), (1, 2)):
        trained = copy.deepcopy(model)
        arguments = TrainingArguments(
            tmp_path,
            max_steps=3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            learning_rate=1e-2,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(trained, arguments, train_dataset=rows)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        assert losses[-1][-1] < losses[-1][0]
    alone = [model(ids[i : i + 1], codes[i : i + 1], labels=labels[i : i + 1]).loss.item() for i in range(2)]
    assert_close(losses[1][0], sum(alone) / 2, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("targets", [r"model\.layers\.\d+\.self_attn\.[qkvo]_proj", ["q_proj", "v_proj"]], ids=str)
def test_lora_trains_saves_loads_and_merges(tmp_path, batch, targets):
    peft = pytest.importorskip("peft")
    model, ids, codes, labels, _ = batch
    base = copy.deepcopy(model)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    places = {name.split(".layers.")[0] for name, p in tuned.named_parameters() if p.requires_grad}
    assert len(places) == (1 if isinstance(targets, str) else 3)
    tuned.train()
    tuned.enable_input_require_grads()
    optimizer = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(4):
        loss = tuned(input_ids=ids, audio_codes=codes, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    tuned.eval()
    tuned.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    options = {"input_ids": ids, "audio_codes": codes, "max_new_tokens": 4, "do_sample": False}
    with torch.no_grad():
        expected = tuned(input_ids=ids, audio_codes=codes)
        assert_close(loaded(input_ids=ids, audio_codes=codes).logits, expected.logits, **CLOSE)
        written = tuned.generate(**options)
        merged = loaded.merge_and_unload()
        assert_close(merged(ids, codes).logits, expected.logits, **CLOSE)
        found = merged.generate(**options)
    assert torch.equal(found.sequences, written.sequences)
    assert torch.equal(found.audio_codes, written.audio_codes)
