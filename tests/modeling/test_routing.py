"""Expert routing of MiMo-V2-Flash: the balance loss in loops, the bias update by counting, and replayed rollouts."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from mimo_hf import RouterBiasUpdateCallback, record_routing, sequence_balance_loss

EXPERTS, TOP_K = 6, 2
LAYERS = 2  # mixture-of-experts layers of the tiny configuration


def balance_in_loops(logits, indices, lengths):
    """arXiv 2412.19437, eq. 17-20: mean over sequences of sum_e f_e P_e; logits and indices `[batch, length, ...]`."""
    sequences = []
    for sequence, length in enumerate(lengths):
        total = 0.0
        for e in range(logits.shape[-1]):
            chosen = affinity = 0.0
            for t in range(logits.shape[1] - length, logits.shape[1]):
                scores = logits[sequence, t].double().sigmoid()
                affinity += (scores[e] / scores.sum()).item() / length
                chosen += (indices[sequence, t] == e).sum().item()
            total += logits.shape[-1] / (indices.shape[-1] * length) * chosen * affinity
        sequences.append(total)
    return sum(sequences) / len(sequences)


def routers(model):
    return [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]


class Watch:
    """What the routers of a model put out, one list a layer: (logits, weights, indices) of each forward pass."""

    def __init__(self, model):
        self.seen = [[] for _ in routers(model)]
        for router, seen in zip(routers(model), self.seen, strict=True):
            router.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output))


def counts(watch, layer, keep=None):
    """How often each expert of a layer was chosen, token by token."""
    load = [0] * EXPERTS
    for _, _, indices in watch.seen[layer]:
        for token, chosen in enumerate(indices.tolist()):
            for expert in chosen:
                load[expert] += 1 if keep is None or keep[token] else 0
    return torch.tensor(load, dtype=torch.float32)


@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_perfect_balance_costs_alpha(alpha):
    """Equal scores, and each expert chosen by as many tokens."""
    indices = torch.tensor([[0, 1], [2, 3], [4, 5], [1, 0], [3, 2], [5, 4]])
    loss = sequence_balance_loss((torch.zeros(6, EXPERTS),), (indices,), batch_size=1, alpha=alpha)
    assert loss.item() == pytest.approx(alpha)


@pytest.mark.parametrize("seed", range(5))
def test_imbalance_costs_more(seed):
    logits = torch.randn(24, EXPERTS, generator=torch.Generator().manual_seed(seed))
    loss = sequence_balance_loss((logits,), (logits.topk(TOP_K).indices,), batch_size=2)
    assert loss > 1.001
    collapsed = torch.tensor([5.0, 5.0, -5.0, -5.0, -5.0, -5.0]).repeat(24, 1)
    worst = sequence_balance_loss((collapsed,), (collapsed.topk(TOP_K).indices,), batch_size=2)
    assert worst > loss
    assert worst.item() == pytest.approx(EXPERTS / TOP_K, rel=0.05)


@pytest.mark.parametrize("lengths", [[9, 9], [9, 4]])
def test_balance_loss_of_the_model_in_loops(tiny_model, upstream_of, tokens, lengths):
    model = tiny_model(router_aux_loss_coef=0.5)
    upstream = upstream_of(model)
    watch = Watch(upstream)
    ids = tokens(2, 9)
    mask = torch.tensor([[0] * (9 - length) + [1] * length for length in lengths])
    with torch.no_grad():
        upstream(ids, attention_mask=mask)
    layers = [
        balance_in_loops(seen[0][0].view(2, 9, EXPERTS), seen[0][2].view(2, 9, TOP_K), lengths) for seen in watch.seen
    ]
    assert len(layers) == LAYERS
    outputs = model(ids, attention_mask=mask, labels=ids, output_router_logits=True)
    assert_close(outputs.aux_loss.item(), sum(layers) / LAYERS, rtol=1e-5, atol=1e-6)
    assert len(outputs.router_logits) == LAYERS
    without = model(ids, attention_mask=mask, labels=ids)
    assert without.aux_loss is None
    assert_close((outputs.loss - without.loss).item(), 0.5 * sum(layers) / LAYERS, rtol=1e-4, atol=1e-5)


def test_the_configuration_can_ask_for_the_balance_loss(tiny_model, tokens):
    outputs = tiny_model(output_router_logits=True)(tokens(1, 9))
    assert outputs.aux_loss > 0
    assert outputs.loss is None


def test_balance_loss_teaches_the_router_only(tiny_model, tokens):
    model = tiny_model()
    model(tokens(2, 9), output_router_logits=True).aux_loss.backward()
    assert all(router.weight.grad.abs().max() > 1e-6 for router in routers(model))
    assert model.lm_head.weight.grad is None


def test_a_model_without_experts_has_nothing_to_balance(tiny_model, tokens):
    model = tiny_model(mlp_layer_types=["dense"] * 4)
    outputs = model(tokens(1, 9), labels=tokens(1, 9), output_router_logits=True)
    assert outputs.aux_loss.item() == 0
    assert torch.equal(outputs.loss, model(tokens(1, 9), labels=tokens(1, 9)).loss)
    with pytest.raises(ValueError, match="mixture-of-experts"), record_routing(model):
        pass


def biases(model):
    return [router.e_score_correction_bias.clone() for router in routers(model)]


def attached(model, rate=0.01):
    callback = RouterBiasUpdateCallback(rate)
    callback.attach(model)
    return callback


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_bias_moves_towards_experts_with_little_load(tiny_model, tokens, checkpointing, padded):
    """Two micro-batches count as one step; padding, evaluation and recomputation do not count."""
    mask = torch.ones(2, 9, dtype=torch.long)
    if padded:
        mask[0, :5] = 0
    reference = tiny_model()
    watch = Watch(reference)
    model = tiny_model()
    callback = attached(model)
    if checkpointing:
        model.gradient_checkpointing_enable()
    before = biases(model)
    with torch.no_grad():
        model(tokens(2, 9, seed=7), attention_mask=mask)
    model.train()
    for seed in (1, 2):
        reference(tokens(2, 9, seed=seed), attention_mask=mask)
        model(tokens(2, 9, seed=seed), attention_mask=mask, labels=tokens(2, 9), use_cache=False).loss.backward()
    loads = [counts(watch, layer, keep=mask.reshape(-1)) for layer in range(LAYERS)]
    assert all(torch.equal(callback.loads[router], load) for router, load in zip(routers(model), loads, strict=True))
    callback.update()
    for old, new, load in zip(before, biases(model), loads, strict=True):
        assert load.sum() == 2 * mask.sum() * TOP_K
        assert_close(new - old, 0.01 * torch.sign(load.mean() - load), rtol=0, atol=1e-6)
        assert new[load.argmax()] < old[load.argmax()]
        assert new[load.argmin()] > old[load.argmin()]


def test_even_load_moves_nothing(tiny_model):
    model = tiny_model().train()
    callback = attached(model)
    with torch.no_grad():  # every token alike, and a bias that gives each pair of experts its turn
        for router in routers(model):
            router.weight.zero_()
    for pair in range(3):
        for router in routers(model):
            router.e_score_correction_bias.copy_(torch.arange(EXPERTS) // 2 == pair)
        model(torch.zeros(1, 4, dtype=torch.long))
    before = biases(model)
    callback.update()
    assert all(torch.equal(a, b) for a, b in zip(before, biases(model), strict=True))


def test_counts_start_again_after_a_step(tiny_model, tokens):
    model = tiny_model().train()
    callback = attached(model)
    model(tokens(2, 9))
    callback.update()
    after = biases(model)
    callback.update()
    assert all(torch.equal(a, b) for a, b in zip(after, biases(model), strict=True))


def test_detached_it_leaves_no_hooks(tiny_model, tokens):
    model = tiny_model().train()
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    callback = attached(model)
    callback.detach()
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    before = biases(model)
    model(tokens(2, 9))
    callback.update()
    assert all(torch.equal(a, b) for a, b in zip(before, biases(model), strict=True))


def test_a_negative_update_rate_is_refused():
    with pytest.raises(ValueError, match="update_rate"):
        RouterBiasUpdateCallback(-1e-3)


def bias_steps(model, before, rate):
    """How many updates up (or down) each bias has moved."""
    steps = torch.stack(biases(model)).sub(torch.stack(before)) / rate
    assert_close(steps, steps.round(), rtol=0, atol=1e-2)
    return steps.round()


@pytest.mark.slow
def test_trl_sft_trains_with_the_balance_loss_and_the_bias_update(tiny_model, trainer_parts):
    trl = pytest.importorskip("trl")
    arguments, data, tokenizer = trainer_parts
    model = tiny_model()
    before = biases(model)
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(router_aux_loss_coef=0.01, **arguments),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[RouterBiasUpdateCallback(1e-3)],
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        assert math.isfinite(entry["loss"])
        assert math.isfinite(entry["aux_loss"])
        assert entry["aux_loss"] > 0
    steps = bias_steps(model, before, 1e-3)
    assert set(steps.unique().tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert steps.abs().max() == 2


RANK = """
import json, os, sys
import torch
from mimo_hf import MiMoV2FlashConfig, MiMoV2FlashForCausalLM, RouterBiasUpdateCallback, record_routing

rank, store, fields = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
model = MiMoV2FlashForCausalLM(MiMoV2FlashConfig(**fields)).train()
callback = RouterBiasUpdateCallback(0.01)
callback.attach(model)
with record_routing(model) as routing:
    model(torch.arange(9)[None] + 9 * rank)
callback.update()
gates = [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]
biases = [gate.e_score_correction_bias.tolist() for gate in gates]
print(json.dumps({"indices": routing.indices.tolist(), "biases": biases}))
torch.distributed.destroy_process_group()
"""


def test_loads_are_summed_over_data_parallel_processes(tiny_config, tmp_path):
    fields = {name: value for name, value in tiny_config().to_dict().items() if value is not None}
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store"), json.dumps(fields)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    assert results[0]["biases"] == results[1]["biases"]
    chosen = torch.tensor(results[0]["indices"] + results[1]["indices"])
    assert chosen.shape == (18, LAYERS, TOP_K)
    assert results[0]["indices"] != results[1]["indices"]
    for layer in range(LAYERS):
        load = torch.tensor([(chosen[:, layer] == expert).sum() for expert in range(EXPERTS)]).float()
        expected = 0.01 * torch.sign(load.mean() - load)
        assert_close(torch.tensor(results[0]["biases"][layer]), expected, rtol=0, atol=1e-6)
