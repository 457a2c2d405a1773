"""MiMo-7B and MiMo-V2-Flash with MTP heads on two processes: what one process gives, or a clear refusal."""

import re

import pytest

SPLIT = {"tp_plan": "auto"}
EXPERTS = {"tp_size": 2, "ep_size": 2}
CASES = {
    "flash": {"model": "flash"},
    "flash drafts": {"model": "flash", "generate": {"use_mtp": True}},
    "flash eager": {"model": "flash", "load": {"attn_implementation": "eager"}},
    "flash experts": {"model": "flash", "distributed": EXPERTS, "generate": {"use_mtp": True}},
    "mimo": {"model": "mimo"},
    "mimo drafts": {"model": "mimo", "generate": {"use_mtp": True}},
}
REFUSED = {
    "one head": ({"model": "one head"}, "`tp_size` must divide `num_key_value_heads=1`.*; got 2"),
    "stages": (
        {"model": "mimo", "distributed": {"pp_size": 2}},
        r"`pp_size` must be 1 with MTP heads \(`num_mtp_layers=3`\).*; got 2",
    ),
}


@pytest.fixture(scope="module")
def ran(parallel_runs, tiny_model, mimo_model):
    models = {
        "flash": tiny_model(num_key_value_heads=2, vocab_size=28),
        "mimo": mimo_model(vocab_size=28),
        "one head": mimo_model(vocab_size=28, num_key_value_heads=1),
    }
    cases = CASES | {name: case for name, (case, _) in REFUSED.items()}
    return parallel_runs(models, {name: {"distributed": SPLIT} | case for name, case in cases.items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_what_one_does(ran, assert_as_one_process, name):
    alone, both = ran[1](name)
    assert_as_one_process(alone, both)
    # Heads are whole on each process, so that they can be replaced, copied and frozen as on one.
    assert {parameter for parameter in alone["gradients"] if ".mtp" in parameter} <= set(both[0]["replicated"])


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shared_out_is_refused(ran, name):
    for seen in ran[1](name)[1]:
        assert re.search(REFUSED[name][1], seen["error"])


def test_the_plan_names_the_trunk_and_the_sinks(tiny_model, parameters_without_rule):
    model = tiny_model()
    left = {name for name in parameters_without_rule(model) if not name.startswith("model.mtp.")}
    norms = {f"model.layers.*.{name}_layernorm.weight" for name in ("input", "post_attention")}
    assert left == norms | {"model.norm.weight", "model.layers.*.mlp.gate.weight"}
    assert model.tp_plan["model.layers.*.self_attn"] == "local_params"
