"""What transformers' own model tests ask of a class beside right values (tests/peer runs them all)."""

import pytest
import torch
from transformers import GenerationMixin
from transformers.utils.output_capturing import CompileableContextVar

from mimo_hf import HySparseForCausalLM, MiMoForCausalLM, MiMoV2FlashForCausalLM


@pytest.mark.parametrize("model_class", [MiMoV2FlashForCausalLM, MiMoForCausalLM, HySparseForCausalLM])
def test_a_causal_language_model_names_what_it_generates_with(model_class):
    assert GenerationMixin in model_class.__bases__


@torch.no_grad()
@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("name", ["tiny_model", "mimo_model"])
def test_what_a_pass_records_has_names_and_no_name_twice(request, monkeypatch, name, read):
    recorded = []
    set_ = CompileableContextVar.set
    monkeypatch.setattr(
        CompileableContextVar, "set", lambda self, value: recorded.append(list(value)) or set_(self, value)
    )
    model = request.getfixturevalue(name)("eager")
    outputs = model(torch.tensor([[3, 4, 5]]), output_mtp_hidden_states=read, output_hidden_states=True)
    names = [name for names in recorded for name in names]
    assert ("pre_norm" in names) == (outputs.mtp_hidden_states is not None) == read
    assert "hidden_states" in names
    assert len(set(names)) == len(names)
