"""HySparse traced: exported with a length that varies, and compiled at one length after another."""

import pytest
import torch
from torch.export import Dim
from torch.testing import assert_close


class Exported(torch.nn.Module):
    def __init__(self, model, use_cache):
        super().__init__()
        self.model = model
        self.use_cache = use_cache

    def forward(self, ids, mask=None):
        return self.model(ids, attention_mask=mask, use_cache=self.use_cache).logits


@pytest.mark.slow  # tracing takes its time
@pytest.mark.parametrize("use_cache", [False, True])
def test_a_program_takes_texts_shorter_and_longer_than_the_one_it_was_exported_with(use_cache, small_model, tokens):
    model = small_model(
        num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"], sliding_window=80
    ).requires_grad_(False)
    shapes = {"ids": {1: Dim.DYNAMIC}, "mask": {1: Dim.DYNAMIC}}

    def inputs(length):
        mask = torch.ones(2, length, dtype=torch.long)
        mask[1, :2] = 0
        return tokens(2, length), mask

    program = torch.export.export(Exported(model, use_cache), inputs(30), dynamic_shapes=shapes, strict=False).module()
    for length in (9, 17, 60):  # from two blocks of four to more queries than are taken at once
        ids, mask = inputs(length)
        right = model(ids, attention_mask=mask).logits
        assert_close(program(ids, mask)[0], right[0], atol=1e-12, rtol=0)
        assert_close(program(ids, mask)[1, 2:], right[1, 2:], atol=1e-12, rtol=0)


@pytest.mark.slow  # tracing takes its time
def test_a_compiled_model_takes_one_length_after_another(small_model, tokens):
    model = small_model(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"])
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for length in (40, 50, 9):
            assert_close(compiled(tokens(1, length)).logits, model(tokens(1, length)).logits, atol=1e-12, rtol=0)
