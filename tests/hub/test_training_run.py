"""What a training record says first is of this process."""

import sys
from datetime import date

import torch
import transformers

import mimo_hf
from mimo_hf.hub.training_run import run_facts


def test_a_record_begins_with_the_command_as_it_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/else/pretrain.py", "--name", "two words"])
    facts = run_facts("examples/pretrain.py", 7, "cpu")
    assert facts["command"] == "python examples/pretrain.py --name 'two words'"
    assert facts["seed"] == 7
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["transformers"] == transformers.__version__
    assert facts["versions"]["mimo_hf"] == mimo_hf.__version__
    assert facts["device"].startswith("cpu (")
    assert abs((date.fromisoformat(facts["date"]) - date.today()).days) <= 1
