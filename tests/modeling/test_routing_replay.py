"""Rollout routing replay (R3): recorded experts are used again, with weights from the current scores."""

import pytest
import torch
from torch.testing import assert_close

from mimo_hf import record_routing, replay_routing, sequence_balance_loss

EXPERTS, TOP_K, LAYERS = 6, 2, 2


def routers(model):
    return [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]


@torch.no_grad()
def recorded(model, ids, **arguments):
    with record_routing(model) as routing:
        logits = model(ids, **arguments).logits
    return routing.indices, logits


@pytest.fixture(scope="module")
def other(tiny_model):
    """The same shapes with other weights, which would choose other experts."""
    return tiny_model(seed=1)


@torch.no_grad()
def test_records_what_the_routers_choose(tiny_model, tokens):
    model = tiny_model()
    chosen = []
    for router in routers(model):
        router.register_forward_hook(lambda module, args, output: chosen.append(output[2]))
    indices, _ = recorded(model, tokens(2, 9))
    assert indices.dtype == torch.int16
    assert indices.shape == (18, LAYERS, TOP_K)
    assert torch.equal(indices, torch.stack(chosen, dim=1).short())


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_with_the_same_weights_every_bit_is_the_same(tiny_model, tokens, implementation):
    model = tiny_model()
    model.set_experts_implementation(implementation)
    indices, logits = recorded(model, tokens(2, 9))
    with replay_routing(model, indices):
        assert torch.equal(model(tokens(2, 9)).logits, logits)


def test_with_other_weights_the_recorded_experts_are_used(tiny_model, other, tokens):
    indices, _ = recorded(tiny_model(), tokens(2, 9))
    own, plain = recorded(other, tokens(2, 9))
    assert (own.sort().values != indices.sort().values).any(dim=-1).float().mean() > 0.3
    outputs = {}
    for layer, router in enumerate(routers(other)):
        router.register_forward_hook(lambda module, args, output, layer=layer: outputs.update({layer: output}))
    with replay_routing(other, indices), record_routing(other) as again:
        logits = other(tokens(2, 9), output_router_logits=True)
        assert (logits.logits - plain).abs().max() > 1e-3
        other.zero_grad()
        logits.logits.square().sum().backward()
    assert torch.equal(again.indices, indices)
    for layer, router in enumerate(routers(other)):
        scores, weights, chosen = outputs[layer]
        assert torch.equal(chosen, indices[:, layer].long())
        for token in range(18):
            affinity = [scores[token, expert].sigmoid() for expert in chosen[token]]
            expected = torch.stack([value / sum(affinity) for value in affinity])
            assert_close(weights[token], expected)
        assert router.weight.grad.abs().max() > 1e-6
    assert torch.equal(other(tokens(2, 9)).logits, plain)  # afterwards the router decides again


def test_the_balance_loss_sees_the_replayed_experts(tiny_model, other, tokens):
    indices, _ = recorded(tiny_model(), tokens(2, 9))
    with replay_routing(other, indices):
        outputs = other(tokens(2, 9), output_router_logits=True)
    chosen = tuple(indices[:, layer].long() for layer in range(LAYERS))
    assert_close(outputs.aux_loss, sequence_balance_loss(outputs.router_logits, chosen, batch_size=2))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_replays_on_the_way_back(tiny_model, other, tokens, reentrant):
    indices, _ = recorded(tiny_model(), tokens(2, 9))
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(seed=1).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with replay_routing(model, indices):
            model(tokens(2, 9), labels=tokens(2, 9), use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_under_gradient_checkpointing_is_not_recorded(tiny_model, tokens, reentrant):
    model = tiny_model().train()
    expected, _ = recorded(model, tokens(2, 9))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with record_routing(model) as routing:
        model(tokens(2, 9), labels=tokens(2, 9), use_cache=False).loss.backward()
    assert torch.equal(routing.indices, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_backward_pass_that_would_route_for_itself_is_refused(tiny_model, tokens, reentrant):
    """With reentrant checkpointing its gradients would be those of other experts."""
    model = tiny_model().train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    indices, _ = recorded(model, tokens(2, 9))
    with pytest.raises(RuntimeError, match=r"call `backward\(\)` inside"), replay_routing(model, indices):
        model(tokens(2, 9), labels=tokens(2, 9), use_cache=False)
    with torch.no_grad(), replay_routing(model, indices):
        model(tokens(2, 9))


@torch.no_grad()
def test_negative_entries_leave_the_choice_to_the_router(tiny_model, other, tokens):
    indices, _ = recorded(tiny_model(), tokens(2, 9))
    own, _ = recorded(other, tokens(2, 9))
    mixed = indices.clone()
    mixed[3:7] = -1
    mixed[4, :, 0] = indices[4, :, 0]  # one negative entry is enough
    with replay_routing(other, mixed), record_routing(other) as again:
        other(tokens(2, 9))
    # Attention mixes tokens, so only the first routed layer chooses from the same states as without replay.
    assert torch.equal(again.indices[3:7, 0], own[3:7, 0])
    assert torch.equal(again.indices[:3], indices[:3])
    assert torch.equal(again.indices[7:], indices[7:])


@torch.no_grad()
@pytest.mark.parametrize("use_mtp", [None, True], ids=["plain", "drafts"])
def test_a_rollout_records_its_text_without_the_last_token(follower_model, tokens, use_mtp):
    model = follower_model()
    for seed in range(3):
        ids = tokens(1, 7, seed=seed)
        with record_routing(model) as routing:
            text = model.generate(ids, use_mtp=use_mtp, do_sample=False, max_new_tokens=20)
        expected, _ = recorded(model, text[:, :-1])
        assert routing.indices.shape == (26, 1, TOP_K)
        assert torch.equal(routing.indices.sort().values, expected.sort().values)
    if use_mtp:
        assert 0 < sum(model.mtp_statistics.accepted) < sum(model.mtp_statistics.drafted)


@torch.no_grad()
def test_drafts_leave_no_trace_at_an_end_of_sequence(follower_model, tokens):
    model = follower_model()
    ids = tokens(1, 7)
    plain = model.generate(ids, do_sample=False, max_new_tokens=20)[0, 7:].tolist()
    for token in dict.fromkeys(plain):
        arguments = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": token}
        indices = []
        for use_mtp in (None, True):
            with record_routing(model) as routing:
                model.generate(ids, use_mtp=use_mtp, **arguments)
            indices.append(routing.indices.sort().values)
        assert torch.equal(*indices)


@torch.no_grad()
def test_a_batch_of_rollouts_is_recorded_text_by_text(tiny_model, tokens):
    model = tiny_model()
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    with record_routing(model) as routing:
        texts = model.generate(tokens(2, 6), attention_mask=mask, do_sample=False, max_new_tokens=5, pad_token_id=0)
    indices = routing.indices.view(2, 10, LAYERS, TOP_K)
    for row, padding in enumerate([0, 2]):
        alone, _ = recorded(model, texts[row : row + 1, padding:-1])
        assert torch.equal(indices[row, padding:].sort().values, alone.sort().values)


@torch.no_grad()
def test_two_turns_on_one_cache_are_one_text(follower_model, tokens):
    model = follower_model()
    for use_mtp in (None, True):
        with record_routing(model) as routing:
            first = model.generate(
                tokens(1, 6), use_mtp=use_mtp, do_sample=False, max_new_tokens=9, return_dict_in_generate=True
            )
            prompt = torch.cat([first.sequences, tokens(1, 4, seed=3)], dim=1)
            text = model.generate(
                prompt, use_mtp=use_mtp, past_key_values=first.past_key_values, do_sample=False, max_new_tokens=8
            )
        expected, _ = recorded(model, text[:, :-1])
        assert torch.equal(routing.indices.sort().values, expected.sort().values)


def test_a_rollout_is_replayed_in_training(tiny_model, other, tokens):
    model = tiny_model()
    with record_routing(model) as routing:
        text = model.generate(tokens(1, 6), do_sample=False, max_new_tokens=6)
    padded = torch.cat([routing.indices, torch.full((1, LAYERS, TOP_K), -1, dtype=torch.int16)])
    with replay_routing(other, padded), record_routing(other) as again:
        other(text, labels=text)
    assert torch.equal(again.indices[:-1], routing.indices)


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((18, LAYERS), "moe_layers"),
        ((18, LAYERS + 1, TOP_K), "moe_layers"),
        ((18, LAYERS, TOP_K + 1), "top_k"),
        ((2, 9, LAYERS, TOP_K), "tokens"),
        ((17, LAYERS, TOP_K), "18 tokens .*; got 17"),
        ((0, LAYERS, TOP_K), "18 tokens .*; got 0"),
    ],
)
def test_indices_of_another_shape_are_refused(other, tokens, shape, named):
    indices = torch.zeros(shape, dtype=torch.int16)
    with pytest.raises(ValueError, match=named), replay_routing(other, indices):
        other(tokens(2, 9))


def test_experts_that_do_not_exist_are_refused(other, tokens):
    indices, _ = recorded(other, tokens(2, 9))
    indices[4, 1, 0] = EXPERTS
    with pytest.raises(ValueError, match=f"expert {EXPERTS}"), replay_routing(other, indices):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_what_are_no_numbers_of_experts_is_refused(other, tokens, dtype):
    indices, _ = recorded(other, tokens(2, 9))
    with pytest.raises(ValueError, match=f"must hold integers.*{dtype}"), replay_routing(other, indices.to(dtype)):
        pass


def test_nothing_recorded_says_so(other):
    with record_routing(other) as routing:
        pass
    with pytest.raises(ValueError, match="record_routing"):
        _ = routing.indices


@torch.no_grad()
def test_an_error_inside_leaves_no_hooks(other, tokens):
    _, plain = recorded(other, tokens(1, 9))
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in other.modules())
    first = torch.arange(TOP_K).expand(9, LAYERS, TOP_K)
    with pytest.raises(RuntimeError, match="stop"), record_routing(other), replay_routing(other, first):
        raise RuntimeError("stop")
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in other.modules()) == hooks
    assert torch.equal(other(tokens(1, 9)).logits, plain)
