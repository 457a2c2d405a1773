"""R3: experts of later updates are those of the rollout, whatever became of the routers."""

import pytest
import torch

from mimo_hf.trainers.mopd.routing_replay import RoutingReplay, stacked

SHAPE = {
    "vocab_size": 18,
    "hidden_size": 16,
    "intermediate_size": 32,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def make_moe(family, seed=0, **changes):
    import transformers

    own = {
        "Qwen3Moe": {"num_experts": 4, "norm_topk_prob": True},
        "MiMoV2Flash": {
            "n_routed_experts": 4,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "mlp_layer_types": ["dense", "sparse", "sparse"],
            "head_dim": 24,
            "v_head_dim": 8,
            "sliding_window": 4,
        },
    }[family]
    config = getattr(transformers, f"{family}Config")(**(SHAPE | own | changes))
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__.lower().endswith("topkrouter"):
                module.weight.normal_()
                if hasattr(module, "e_score_correction_bias"):
                    module.e_score_correction_bias.normal_()
    return model


IDS = torch.randint(2, 18, (3, 7), generator=torch.Generator().manual_seed(1))
FAMILIES = pytest.mark.parametrize(
    ("family", "changes"), [("Qwen3Moe", {}), ("Qwen3Moe", {"norm_topk_prob": False}), ("MiMoV2Flash", {})]
)


def perturb(model):
    torch.manual_seed(5)
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__.lower().endswith("topkrouter"):
                module.weight.add_(0.7 * torch.randn_like(module.weight))


@FAMILIES
def test_replay_with_the_same_weights_changes_nothing(family, changes):
    model = make_moe(family, **changes)
    expected = model(IDS).logits
    replay = RoutingReplay(model)
    with replay.record() as chosen:
        model(IDS)
    replay.replay(stacked(chosen, 3))
    torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=1e-6)


@FAMILIES
def test_changed_routers_keep_the_experts_and_their_gradients(family, changes):
    model = make_moe(family, **changes)
    replay = RoutingReplay(model)
    with replay.record() as chosen:
        model(IDS)
    routes = stacked(chosen, 3)
    perturb(model)
    with replay.record() as now:
        model(IDS)
    assert (stacked(now, 3) != routes).any()
    replay.replay(routes)
    seen = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))
        for module in model.modules()
        if type(module).__name__.endswith("Experts")
    ]
    model(IDS).logits.sum().backward()
    assert torch.equal(torch.stack(seen, 1).view(routes.shape), routes.to(seen[0]))
    assert all(router.weight.grad.abs().sum() > 0 for router in replay.routers)
    for hook in hooks:
        hook.remove()
    replay.clear()
    with replay.record() as again:
        model(IDS)
    assert torch.equal(stacked(again, 3), stacked(now, 3))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["Qwen3Moe", "MiMoV2Flash"])
def test_a_training_replays_in_every_update_and_not_while_generating(make_mopd, family, checkpointing):
    trainer = make_mopd(
        {"a": "self", "b": make_moe(family, 1), "c": make_moe(family, 2)},
        model=make_moe(family),
        router_replay=True,
        num_iterations=2,
        max_steps=4,
        learning_rate=0.3,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
    )
    routers, experts, losses = trainer._replay.routers, [], []
    modules = [module for module in trainer.model.modules() if type(module).__name__.endswith("Experts")]
    for module in modules:
        module.register_forward_hook(lambda module, inputs, output: experts.append(inputs[1].detach().clone()))
    compute = trainer._compute_loss

    def watched(model, inputs):
        experts.clear()
        loss = compute(model, inputs)
        used = torch.stack(experts[: len(routers)], 1).view(inputs["routed_experts"].shape)
        assert torch.equal(used, inputs["routed_experts"].to(used))
        losses.append(loss.item())
        return loss

    trainer._compute_loss = watched
    trainer.train()
    assert len(losses) == 4
    assert all(loss == loss for loss in losses)


def test_a_model_without_experts_is_refused(make_mopd):
    with pytest.raises(ValueError, match=r"router_replay.*Qwen2ForCausalLM has none"):
        make_mopd(router_replay=True)


def test_unknown_routers_are_refused_by_name():
    class OddExperts(torch.nn.Module):
        pass

    with pytest.raises(NotImplementedError, match=r"OddExperts"):
        RoutingReplay(torch.nn.Sequential(OddExperts()))


def test_a_router_that_weighs_by_another_rule_is_refused_by_name():
    model = make_moe("Qwen3Moe")
    router = next(module for module in model.modules() if type(module).__name__ == "Qwen3MoeTopKRouter")
    forward = router.forward
    router.forward = lambda states: (lambda out: (out[0], out[1] ** 2, out[2]))(forward(states))
    replay = RoutingReplay(model)
    with pytest.raises(NotImplementedError, match=r"Qwen3MoeTopKRouter"), replay.record():
        model(IDS)
