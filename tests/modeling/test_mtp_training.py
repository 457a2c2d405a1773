"""The training loss of MiMo-V2-Flash with MTP heads, by hand, and who learns from it."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

HEADS = [0, 1, 2]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def negative_log_likelihood(logits, token):
    logits = np.asarray(logits, dtype=np.float64)
    top = logits.max()
    return top + np.log(np.exp(logits - top).sum()) - logits[int(token)]


class ByHand:
    """Sums of -log p over documents, for the trunk's next token and for each head's."""

    def __init__(self, model, states_of, head_oracle, upstream_of):
        self.model, self.states_of, self.head_oracle = model, states_of, head_oracle
        self.upstream = upstream_of(model)
        self.trunk = []
        self.heads = [[] for _ in model.mtp_heads]

    def add(self, document, labels):
        """A document by itself; labels of -100 are not learned."""
        with torch.no_grad():
            logits = self.upstream(document[None]).logits[0]
        states = self.states_of(self.model, document[None])[0]
        for i in range(len(document) - 1):
            if labels[i + 1] != -100:
                self.trunk.append(negative_log_likelihood(logits[i], labels[i + 1]))
        for k, terms in enumerate(self.heads):
            oracle = self.head_oracle(self.model, k, document, states)
            for i in range(len(document) - 2 - k):
                if labels[i + 2 + k] != -100:
                    terms.append(negative_log_likelihood(oracle.logits(i), labels[i + 2 + k]))

    def mtp_loss(self, num_items=None):
        return np.mean([sum(terms) / (num_items or len(terms)) for terms in self.heads])

    def loss(self, num_items=None):
        weighted = self.model.config.mtp_loss_weight * self.mtp_loss(num_items)
        return sum(self.trunk) / (num_items or len(self.trunk)) + weighted


@pytest.fixture(scope="module", params=["eager", "mimo_sink"])
def model(request, tiny_model):
    return tiny_model(request.param, mtp_loss_weight=0.3)


@pytest.fixture
def by_hand(model, states_of, head_oracle, upstream_of):
    return ByHand(model, states_of, head_oracle, upstream_of)


def assert_losses(outputs, by_hand, num_items=None):
    assert_close(outputs.mtp_loss.item(), by_hand.mtp_loss(num_items), **CLOSE)
    assert_close(outputs.loss.item(), by_hand.loss(num_items), **CLOSE)


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_plain_text(model, by_hand, tokens):
    ids = tokens(2, 9)
    for row in ids:
        by_hand.add(row, row)
    assert [len(terms) for terms in by_hand.heads] == [14, 12, 10]
    assert_losses(model(ids, labels=ids), by_hand)


def test_shift_labels_take_the_place_of_labels_in_every_loss(model, by_hand, tokens):
    ids = tokens(2, 9)
    for row in ids:
        by_hand.add(row, row)
    aligned = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    for labels in (ids, torch.full_like(ids, -100), torch.ones_like(ids)):
        assert_losses(model(ids, labels=labels, shift_labels=aligned), by_hand)


def test_shift_labels_reach_behind_the_end_of_a_shard(model, tokens):
    """A shard knows its next token as a target, so that each head has a row more to learn than from `labels`."""
    ids = tokens(1, 9)[0]
    shard, targets = ids[None, :6], ids[None, 1:7]
    expected = []
    with torch.no_grad():
        for k, logits in enumerate(model.mtp_logits(shard)):
            expected.append([negative_log_likelihood(logits[0, i], targets[0, i + 1 + k]) for i in range(5 - k)])
        outputs = model(shard, labels=shard, shift_labels=targets)
    assert_close(outputs.mtp_loss.item(), np.mean([np.mean(terms) for terms in expected]), **CLOSE)


def test_labels_that_are_not_learned(model, by_hand, tokens):
    ids = tokens(2, 11)
    labels = ids.clone()
    labels[0, :6] = -100  # a prompt
    labels[1, [3, 8, 10]] = -100
    for row, row_labels in zip(ids, labels, strict=True):
        by_hand.add(row, row_labels)
    assert_losses(model(ids, labels=labels), by_hand)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(model, by_hand, tokens, side):
    lengths = [11, 6]
    ids = tokens(2, 11)
    mask = torch.tensor([[1] * length + [0] * (11 - length) for length in lengths])
    if side == "left":
        mask = mask.flip(dims=[1])
    labels = ids.masked_fill(mask == 0, -100)
    for row in range(2):
        document = ids[row, mask[row] == 1]
        first = document.clone()
        if side == "left" and row == 1:
            labels[row, 5] = -100  # what would predict it is padding
        by_hand.add(document, first)
    assert_losses(model(ids, attention_mask=mask, labels=labels), by_hand)


def test_padding_is_left_out_even_with_labels_on_it(model, by_hand, tokens):
    ids = tokens(1, 11)
    mask = torch.tensor([[1] * 7 + [0] * 4])
    by_hand.add(ids[0, :7], ids[0, :7])
    outputs = model(ids, attention_mask=mask, labels=ids)
    assert_close(outputs.mtp_loss.item(), by_hand.mtp_loss(), **CLOSE)


PACKED = [5, 2, 1, 8]


def packed_positions():
    return torch.cat([torch.arange(length) for length in PACKED]).unsqueeze(0)


def test_packed_documents(model, by_hand, tokens):
    ids = tokens(1, sum(PACKED))
    labels = ids.clone()
    labels[0, [0, 5, 7, 8]] = -100  # no document predicts the first token of the next
    for document, document_labels in zip(ids[0].split(PACKED), labels[0].split(PACKED), strict=True):
        by_hand.add(document, document_labels)
    assert [len(terms) for terms in by_hand.heads] == [3 + 6, 2 + 5, 1 + 4]
    assert_losses(model(ids, labels=labels, position_ids=packed_positions(), use_cache=False), by_hand)


def test_no_head_crosses_documents_even_where_labels_would_let_it(model, by_hand, tokens):
    ids = tokens(1, sum(PACKED))
    for document in ids[0].split(PACKED):
        by_hand.add(document, document)
    outputs = model(ids, labels=ids, position_ids=packed_positions(), use_cache=False)
    assert_close(outputs.mtp_loss.item(), by_hand.mtp_loss(), **CLOSE)


def test_prepared_masks_mean_the_same_as_positions(tiny_model, tokens):
    """The dictionary of 4-D masks that transformers accepts, here block-diagonal."""
    model = tiny_model(mtp_loss_weight=0.3)
    ids = tokens(1, sum(PACKED))
    document = torch.arange(len(PACKED)).repeat_interleave(torch.tensor(PACKED))
    distance = torch.arange(sum(PACKED))[:, None] - torch.arange(sum(PACKED))
    causal = (distance >= 0) & (document[:, None] == document)
    masks = {"full_attention": causal[None, None], "sliding_attention": (causal & (distance < 5))[None, None]}
    arguments = {"labels": ids, "position_ids": packed_positions(), "use_cache": False}
    assert_close(model(ids, attention_mask=masks, **arguments).loss, model(ids, **arguments).loss, **CLOSE)


@pytest.mark.parametrize("kind", [int, torch.tensor])
def test_the_number_of_items_of_a_larger_batch(model, by_hand, tokens, kind):
    ids = tokens(2, 9)
    for row in ids:
        by_hand.add(row, row)
    assert_losses(model(ids, labels=ids, num_items_in_batch=kind(40)), by_hand, num_items=40)


def test_a_text_too_short_for_a_head_adds_nothing(model, tokens):
    """Three tokens: head 0 has one row, the others none."""
    ids = tokens(1, 3)
    outputs = model(ids, labels=ids)
    one_head = negative_log_likelihood(model.mtp_logits(ids)[0][0, 0].detach(), ids[0, 2])
    assert_close(outputs.mtp_loss.item(), one_head / 3, **CLOSE)


def test_the_default_weight_is_the_papers():
    from mimo_hf import MiMoV2FlashConfig

    assert MiMoV2FlashConfig().mtp_loss_weight == 0.1


@pytest.mark.parametrize("num_heads", [0, 3])
def test_without_weight_the_loss_is_upstreams_to_the_bit(tiny_model, upstream_of, tokens, num_heads):
    model = tiny_model("eager", mtp_loss_weight=0.0, num_mtp_layers=num_heads).train()
    upstream = upstream_of(model).train()
    ids, labels = tokens(2, 12), tokens(2, 12)
    labels[0, :4] = -100
    mask = torch.ones(2, 12, dtype=torch.long)
    ours = model(ids, attention_mask=mask, labels=labels)
    theirs = upstream(ids, attention_mask=mask, labels=labels)
    assert torch.equal(ours.loss, theirs.loss)
    assert ours.mtp_loss is None
    ours.loss.backward()
    theirs.loss.backward()
    for name, expected in gradients(upstream).items():
        assert torch.equal(gradients(model)[name], expected), name


def test_embeddings_as_input_are_refused_with_a_loss(model, tokens):
    embeddings = model.get_input_embeddings()(tokens(1, 6))
    with pytest.raises(ValueError, match="input_ids"):
        model(inputs_embeds=embeddings, labels=tokens(1, 6))


@pytest.mark.parametrize("attention", ["eager", "mimo_sink"])
def test_gradients_of_sinks_are_slopes_of_the_loss(tiny_model, tokens, attention):
    model = tiny_model(attention, mtp_loss_weight=1.0, mlp_layer_types=["dense"] * 4)
    ids = tokens(2, 20)
    model(ids, labels=ids).loss.backward()
    for attention_layer in (model.model.layers[1].self_attn, model.mtp_heads[2].self_attn):
        sinks = attention_layer.sinks
        for head in range(4):
            losses = []
            for step in (0.02, -0.02):
                with torch.no_grad():
                    sinks[head] += step
                    losses.append(model(ids, labels=ids).loss.item())
                    sinks[head] -= step
            slope = (losses[0] - losses[1]) / 0.04
            assert sinks.grad[head].item() == pytest.approx(slope, rel=0.05, abs=3e-5)


def test_gradient_checkpointing_changes_nothing(tiny_model, tokens):
    ids = tokens(2, 12)
    plain = tiny_model(mtp_loss_weight=0.3).train()
    saving = tiny_model(mtp_loss_weight=0.3).train()
    saving.gradient_checkpointing_enable()
    runs = []
    saving.mtp_heads[1].mlp.register_forward_hook(lambda *arguments: runs.append(1))
    losses = [model(ids, labels=ids, use_cache=False).loss for model in (plain, saving)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    assert len(runs) == 2  # once more on the way back: the heads are checkpointed too
    for name, expected in gradients(plain).items():
        assert torch.equal(gradients(saving)[name], expected), name


def test_joint_training_reaches_trunk_and_heads(tiny_model, tokens):
    ids = tokens(2, 12)
    model = tiny_model(mtp_loss_weight=0.3).train()
    model(ids, labels=ids).loss.backward()
    alone = tiny_model(mtp_loss_weight=0.0).train()
    alone(ids, labels=ids).loss.backward()
    for name, gradient in gradients(model).items():
        if ".mtp." in name:
            assert gradient.abs().max() > 0, name
        elif name in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.3.self_attn.q_proj.weight"):
            assert (gradient - gradients(alone)[name]).abs().max() > 1e-5, name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_heads_leaves_the_trunk_without_gradients(tiny_model, tokens, checkpointing):
    ids = tokens(2, 12)
    model = tiny_model(mtp_loss_weight=0.3, mtp_train_mode="heads").train()
    joint = tiny_model(mtp_loss_weight=0.3).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    losses = [either(ids, labels=ids, use_cache=False).loss for either in (model, joint)]
    assert_close(*losses)
    for loss in losses:
        loss.backward()
    for name, gradient in gradients(model).items():
        if ".mtp." in name:
            assert_close(gradient, gradients(joint)[name], msg=name)
        else:
            assert gradient is None, name


@pytest.mark.parametrize(
    ("change", "named"), [("mtp_loss_weight", "mtp_loss_weight=0"), ("heads", "num_mtp_layers=0")]
)
def test_heads_mode_with_nothing_to_train_is_refused(tiny_model, tokens, change, named):
    """The loss would be the trunk's, and train what should stay as it is."""
    model = tiny_model(mtp_train_mode="heads", num_mtp_layers=0 if change == "heads" else 1).train()
    if change == "mtp_loss_weight":
        model.config.mtp_loss_weight = 0.0
    with pytest.raises(ValueError, match=named):
        model(tokens(2, 8), labels=tokens(2, 8))
    assert model.eval()(tokens(2, 8), labels=tokens(2, 8)).loss > 0


def test_training_heads_lowers_their_loss_and_keeps_every_bit_of_the_trunk(tiny_model, tokens):
    ids = tokens(4, 12)
    model = tiny_model(mtp_train_mode="heads").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    losses = []
    for _ in range(12):
        outputs = model(ids, labels=ids)
        losses.append(outputs.mtp_loss.item())
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (".mtp." not in name), name


def test_transformers_trainer_trains_the_heads_alone(tiny_model, trainer_parts):
    arguments, data, tokenizer = trainer_parts
    model = tiny_model(num_mtp_layers=1)
    model.replicate_mtp_heads(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=data,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.train()
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (".mtp." not in name), name


def test_replicated_heads_are_copies_of_head_0(tiny_model, tokens):
    model = tiny_model(num_mtp_layers=2)
    first = {name: tensor.clone() for name, tensor in model.mtp_heads[0].state_dict().items()}
    trunk = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".mtp." not in name}
    model.replicate_mtp_heads(4)
    assert model.config.num_mtp_layers == len(model.mtp_heads) == 4
    assert model.config.mtp_train_mode == "heads"
    for head in model.mtp_heads:
        assert head.state_dict().keys() == first.keys()
        assert all(torch.equal(tensor, first[name]) for name, tensor in head.state_dict().items())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in trunk.items())
    # Copies, not the same tensors: they part in training.
    with torch.no_grad():
        model.mtp_heads[3].eh_proj.weight.zero_()
    assert torch.equal(model.mtp_heads[0].eh_proj.weight, first["eh_proj.weight"])
    model.train()(tokens(2, 9), labels=tokens(2, 9)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.model.mtp.parameters())


def test_replicated_heads_compute_what_the_equations_say(tiny_model, tokens, states_of, head_oracle):
    model = tiny_model("eager", num_mtp_layers=1)
    model.replicate_mtp_heads(3)
    ids = tokens(1, 12)
    states = states_of(model, ids)[0]
    with torch.no_grad():
        logits = model.mtp_logits(ids)
    for k in HEADS:
        expected = head_oracle(model, k, ids[0], states).all_logits()
        assert_close(logits[k][0], expected, rtol=0, atol=1e-4, check_dtype=False)


def test_replicated_heads_keep_dtype_and_mode(tiny_model):
    model = tiny_model(num_mtp_layers=1).to(torch.bfloat16)
    model.replicate_mtp_heads(2, train_mode="joint")
    assert {parameter.dtype for parameter in model.model.mtp.parameters()} == {torch.bfloat16}
    assert model.config.mtp_train_mode == "joint"
    assert not any(module.training for head in model.mtp_heads for module in head.modules())


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "3"])
def test_replicating_to_no_number_of_heads_is_refused(tiny_model, number):
    with pytest.raises(ValueError, match="num_heads"):
        tiny_model(num_mtp_layers=1).replicate_mtp_heads(number)


def test_replicating_nothing_is_refused(tiny_model):
    with pytest.raises(ValueError, match="num_mtp_layers"):
        tiny_model(num_mtp_layers=0).replicate_mtp_heads(3)


def test_lora_on_the_trunk_leaves_the_heads_alone(follower_model, tokens):
    peft = pytest.importorskip("peft")
    model = follower_model(mtp_loss_weight=0.3)
    heads = {name: tensor.clone() for name, tensor in model.model.mtp.state_dict().items()}
    target = r"model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=target, task_type="CAUSAL_LM")).train()
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2
    assert not [name for name in trained if ".mtp." in name]
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(8):
        outputs = adapted(input_ids=tokens(2, 12), labels=tokens(2, 12))
        losses.append(outputs.loss.item())
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    for name, tensor in model.model.mtp.state_dict().items():
        assert torch.equal(tensor, heads[name]), name
    adapted.eval()
    arguments = {"input_ids": tokens(1, 6), "max_new_tokens": 12, "do_sample": False}
    assert torch.equal(adapted.generate(use_mtp=True, **arguments), adapted.generate(**arguments))
    assert model.mtp_statistics.rounds > 0
