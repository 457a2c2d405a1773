"""Dynamo traces a pass as one graph: alone, with what the heads read, with the losses, and step by step on a static cache."""

import pytest
import torch
from transformers import CompileConfig, MiMoV2FlashForCausalLM, Qwen2ForCausalLM

IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])


@pytest.fixture(params=["tiny_model", "mimo_model"])
def model(request):
    torch._dynamo.reset()
    return request.getfixturevalue(request.param)()


def graphs_of(model, **arguments):
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    outputs = torch.compile(model, backend=keep, fullgraph=True)(IDS, **arguments)
    return outputs, graphs


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "upstream"), [("tiny_model", MiMoV2FlashForCausalLM), ("mimo_model", Qwen2ForCausalLM)], ids=["v2", "7b"]
)
def test_a_pass_is_one_graph_of_as_many_operations_as_upstreams(request, name, upstream):
    model = request.getfixturevalue(name)("eager")
    outputs, (graph,) = graphs_of(model, use_cache=False)
    torch.testing.assert_close(outputs.logits, model(IDS, use_cache=False).logits)
    torch._dynamo.reset()
    _, (control,) = graphs_of(upstream(model.config).eval(), use_cache=False)
    assert len(graph.graph.nodes) == len(control.graph.nodes)


@torch.no_grad()
def test_a_pass_with_what_the_heads_read_is_one_graph(model):
    outputs, graphs = graphs_of(model, use_cache=False, output_mtp_hidden_states=True)
    plain = model(IDS, use_cache=False, output_mtp_hidden_states=True)
    torch.testing.assert_close(outputs.mtp_hidden_states, plain.mtp_hidden_states)
    assert len(graphs) == 1


def test_the_losses_are_one_graph(model):
    outputs, graphs = graphs_of(model.train(), labels=IDS, use_cache=False)
    torch.testing.assert_close(outputs.loss, model(IDS, labels=IDS, use_cache=False).loss)
    outputs.loss.backward()
    assert len(graphs) == 1


@torch.no_grad()
def test_a_plain_pass_after_a_compiled_one_sees_its_own_states(model):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(IDS, use_cache=False, output_mtp_hidden_states=True)
    other = model(IDS + 1, use_cache=False, output_mtp_hidden_states=True).mtp_hidden_states
    assert model(IDS, use_cache=False).mtp_hidden_states is None
    assert not torch.equal(other, compiled(IDS, use_cache=False, output_mtp_hidden_states=True).mtp_hidden_states)


def test_compiled_decoding_on_a_static_cache_is_plain_decoding(model, monkeypatch):
    limits = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(IDS, **limits)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(type(model), "_valid_auto_compile_criteria", lambda *arguments: True)
    config = CompileConfig(fullgraph=True, backend=backend, mode=None)
    output = model.generate(IDS, **limits, cache_implementation="static", compile_config=config)
    assert torch.equal(output, plain)
    assert compiled
