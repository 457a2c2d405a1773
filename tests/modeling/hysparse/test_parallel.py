"""HySparse on two processes: tensor and expert parallelism give what one process gives, or a clear refusal."""

import re

import pytest
import torch
from torch.testing import assert_close

from mimo_hf import HySparseConfig, HySparseForCausalLM

SPLIT = {"tp_plan": "auto"}
EXPERTS = {"tp_size": 2, "ep_size": 2}
MOE = {
    "mlp_layer_types": ["dense"] + ["sparse"] * 4,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
}
MODELS = {
    "dense": {},
    "norms": {
        "qk_norm": True,
        "attention_bias": True,
        "gate_bias": True,
        "gate_type": "elementwise",
        "swa_num_key_value_heads": 4,
    },
    "shared": {"swa_shares_kv": True, "tie_word_embeddings": True},
    "uneven": MOE | {"intermediate_size": 25, "moe_intermediate_size": 9},
    "moe": MOE,
    "one_head": {"num_key_value_heads": 1},
    "odd_window": {"num_attention_heads": 6, "swa_num_key_value_heads": 3},
    "random": {"oracle_reduce": "random"},
}
CASES = {
    "dense": {"model": "dense", "save_as": "dense_again"},
    "eager": {"model": "dense", "load": {"attn_implementation": "eager"}},
    "sinks elsewhere": {"model": "dense", "load": {"attn_implementation": "mimo_sink"}},
    "static cache": {"model": "dense", "generate": {"cache_implementation": "static"}},
    "norms": {"model": "norms"},
    "shared": {"model": "shared"},
    "uneven": {"model": "uneven", "load": {"experts_implementation": "eager"}},
    "moe": {"model": "moe"},
    "experts": {"model": "moe", "distributed": EXPERTS},
}
REFUSED = {
    "one_head": ({"model": "one_head"}, "`tp_size` must divide `num_key_value_heads=1`.*; got 2.* can be 1."),
    "odd_window": ({"model": "odd_window"}, "`tp_size` must divide `swa_num_key_value_heads=3`.*; got 2"),
    "random": ({"model": "random"}, "`oracle_reduce` must not be 'random' under tensor parallelism"),
    "stages": (
        {"model": "dense", "distributed": {"pp_size": 2}},
        "`pp_size` must be 1, as sparse layers read .*; got 2",
    ),
    "no experts": ({"model": "dense", "distributed": EXPERTS}, "requested.*`ep_size=2`|`ep_size=2` was requested"),
}
REPLICATED = {
    "model.layers.*.input_layernorm.weight",
    "model.layers.*.post_attention_layernorm.weight",
    "model.norm.weight",
}


@pytest.fixture(scope="module")
def ran(parallel_runs, small_model):
    models = {}
    for name, changes in MODELS.items():
        model = models[name] = small_model(dtype=torch.float32, vocab_size=28, **changes)
        for tensor, parameter in model.named_parameters():
            if "proj" in tensor or "mlp.gate." in tensor:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    cases = CASES | {name: case for name, (case, _) in REFUSED.items()}
    return parallel_runs(models, {name: {"distributed": SPLIT} | case for name, case in cases.items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_what_one_does(ran, assert_as_one_process, name):
    assert_as_one_process(*ran[1](name))


@pytest.mark.slow
def test_a_split_model_is_saved_whole(ran):
    folder, _ = ran
    whole, again = (
        HySparseForCausalLM.from_pretrained(folder / name).state_dict() for name in ("dense", "dense_again")
    )
    assert_close(again, whole, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shared_out_is_refused(ran, name):
    for seen in ran[1](name)[1]:
        assert re.search(REFUSED[name][1], seen["error"])


@pytest.mark.parametrize("changes", [{}, MOE, MODELS["norms"], MODELS["shared"], {"use_swa_branch": False}])
def test_the_plan_names_what_there_is(small_model, parameters_without_rule, changes):
    model = small_model(**changes)
    routers = {"model.layers.*.mlp.gate.weight"} if changes == MOE else set()
    assert parameters_without_rule(model) == REPLICATED | routers
    assert bool(model.ep_plan) == (changes == MOE)
    modules = {name for name, _ in model.named_modules()} | {name for name, _ in model.named_parameters()}
    for rule in model.tp_plan | model.ep_plan:
        assert any(rule.replace("*", str(layer)) in modules for layer in range(5)), rule


def test_the_plans_of_the_preset_with_experts(parameters_without_rule):
    with torch.device("meta"):
        model = HySparseForCausalLM(HySparseConfig.from_preset("hysparse-80b-a3b"))
    assert parameters_without_rule(model) == REPLICATED | {"model.layers.*.mlp.gate.weight"}
    assert {"grouped_gemm"} <= set(model.ep_plan.values())
