"""Batches for training, stages, learning rates, and where LoRA goes."""

import re

import pytest
import torch

from mimo_hf.modeling.mimo_audio import (
    MiMoAudioDataCollator,
    learning_rate_groups,
    lora_target_modules,
    set_training_stage,
)
from mimo_hf.modeling.mimo_audio.fine_tuning import part_of

DECODER = ("local_transformer.", "local_transformer_lm_heads.", "hidden_states_downcast.")
ENCODER = ("input_local_transformer.", "speech_group_downcast.", "speech_embeddings.")


def chat(patches, text):
    codes = torch.arange(6 * patches).view(2 * patches, 3) % 4
    spoken = [{"type": "text", "text": text}, {"type": "audio", "codes": codes}]
    return [{"role": "user", "content": [{"type": "audio", "codes": codes}]}, {"role": "assistant", "content": spoken}]


@pytest.mark.parametrize("kind", ["pt", "np", None])
def test_collated_rows_are_the_batch_that_the_processor_makes_of_them(speech_processor, kind):
    processor = speech_processor(codec=False)
    chats = [chat(2, "Hi"), chat(4, "How are you?"), [*chat(1, "")[:1], {"role": "assistant", "content": "No"}]]
    rows = [dict(processor.apply_chat_template(one, output_labels=True, return_tensors=kind)) for one in chats]
    batch = MiMoAudioDataCollator(processor)(rows)
    expected = processor.apply_chat_template(chats, output_labels=True)
    assert sorted(batch) == sorted(expected)
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    padded = processor.apply_chat_template(chats[:2], output_labels=True)
    again = [{name: values[row] for name, values in padded.items()} for row in range(2)]
    assert all(
        torch.equal(a, b)
        for a, b in zip(MiMoAudioDataCollator(processor)(again).values(), padded.values(), strict=True)
    )
    wide = MiMoAudioDataCollator(processor, pad_to_multiple_of=64)(rows)
    assert wide["labels"].shape[1] % 64 == 0
    assert (wide["labels"][:, batch["labels"].shape[1] :] == -100).all()


def test_rows_without_labels_or_of_several_conversations_are_refused(speech_processor):
    processor = speech_processor(codec=False)
    collate = MiMoAudioDataCollator(processor)
    with pytest.raises(
        ValueError, match=r"`features\[0\]` must have input_ids, .* got none of \['labels', 'audio_labels'\]"
    ):
        collate([processor.apply_chat_template(chat(1, "a")[:1])])
    with pytest.raises(ValueError, match=r"`features\[0\]` must be one row; got a batch of 2"):
        collate([processor.apply_chat_template([chat(1, "a"), chat(1, "b")], output_labels=True)])


def model_and_batch(speech_lm, speech_processor):
    processor = speech_processor(codec=False)
    model = speech_lm(vocab_size=300, **processor.token_ids).train()
    return model, processor.apply_chat_template([chat(2, "Hi"), chat(3, "So it is.")], output_labels=True)


def test_labels_reach_the_loss_of_both_kinds(speech_lm, speech_processor):
    model, batch = model_and_batch(speech_lm, speech_processor)
    output = model(**batch)
    assert output.audio_loss_per_channel.shape == (3,)
    blind = batch["labels"] == -100
    codes = batch["audio_codes"].clone()
    assert torch.isfinite(output.loss)
    assert blind.any()
    assert ((batch["audio_labels"] == codes) | (batch["audio_labels"] == -100)).all()


def test_stage_one_leaves_the_patch_decoder_bit_for_bit_and_trains_the_rest(speech_lm, speech_processor):
    model, batch = model_and_batch(speech_lm, speech_processor)
    set_training_stage(model, 1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in before if name.startswith(DECODER)}
    optimizer = torch.optim.AdamW(learning_rate_groups(model, 1e-2, 1e-2, 1e-2, weight_decay=0.1))
    for _ in range(3):
        output = model(**batch)
        assert output.audio_loss is None
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert kept == {name for name in before if name.startswith(DECODER)}

    set_training_stage(model, 2, audio_loss_weights=[3, 2, 1])
    model(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.config.audio_loss_weights == [3.0, 2.0, 1.0]


def test_each_part_has_its_learning_rate_and_each_parameter_one_group(speech_lm):
    model = speech_lm()
    groups = learning_rate_groups(model, 3.0, 2.0, 1.0, weight_decay=0.5)
    rates = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        rate = 3.0 if name.startswith(ENCODER) else 1.0 if name.startswith(DECODER) else 2.0
        assert rates[id(parameter)] == (rate, 0.5 if parameter.ndim > 1 else 0.0), name
    assert part_of("base_model.model.local_transformer.layers.0.mlp.up_proj.weight") == "patch_decoder"
    assert part_of("speech_embeddings_to_local.weight") == "patch_decoder"
    with pytest.raises(ValueError, match="`llm` must be a learning rate of at least 0; got -1"):
        learning_rate_groups(model, llm=-1)
    with pytest.raises(ValueError, match="`model` must have parameters that are trained"):
        learning_rate_groups(model.requires_grad_(False))


def test_lora_goes_to_the_language_model_unless_asked(speech_lm):
    names = [name for name, _ in speech_lm().named_modules()]
    hit = {part: {n for n in names if re.fullmatch(lora_target_modules(part), n)} for part in (False, True)}
    assert len(hit[False]) == 2 * 4
    assert all(name.startswith("model.layers.") for name in hit[False])
    assert len(hit[True]) == (2 + 2 + 2) * 4


def test_stages_that_there_are_not_are_refused(speech_lm):
    model = speech_lm()
    with pytest.raises(ValueError, match="`stage` must be 1 or 2; got 3"):
        set_training_stage(model, 3)
    set_training_stage(model, 1)
    with pytest.raises(ValueError, match="`audio_loss_weights` must be given for stage 2, 3 numbers"):
        set_training_stage(model, 2)
