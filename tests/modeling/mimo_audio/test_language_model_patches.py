"""The patch decoder: its delays, what depends on what, and what it writes."""

import math

import pytest
import torch
from torch.testing import assert_close

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SHAPES = [{}, {"input_local_dim": 8}, {"delay_pattern": "0-0-0"}, {"delay_pattern": "3-0-1", "group_size": 1}]


def draw(model, patches=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(patches, model.config.local_dim, generator=generator)
    shape = (patches, model.config.group_size)
    codes = [torch.randint(0, zero, shape, generator=generator) for zero in model.config.speech_zero_ids]
    return states, torch.stack(codes, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_teacher_forced_logits_are_those_of_one_step_after_the_other(speech_lm, speech_oracle, attention, changes):
    model = speech_lm(attention, **changes)
    states, codes = draw(model)
    logits = model.patch_logits(states, codes)
    for patch in range(3):
        expected = speech_oracle(model).patch_logits(states[patch].double().numpy(), codes[patch].tolist())
        for (frame, channel), wanted in expected.items():
            assert_close(logits[channel][patch, frame].double(), torch.tensor(wanted), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_patches_are_written_step_by_step_and_alone_as_in_a_batch(speech_lm, speech_oracle, changes):
    model = speech_lm(**changes)
    states, _ = draw(model, 5)
    oracle = speech_oracle(model)
    expected = [oracle.write_patch(state.double().numpy(), oracle.likeliest) for state in states]
    assert model.write_patches(states, lambda logits: logits.argmax(dim=-1)).tolist() == expected


@torch.no_grad()
def test_written_codes_have_the_logits_of_teacher_forcing(speech_lm):
    model, seen = speech_lm(), []
    states, _ = draw(model, 4)

    def sampler(logits):
        seen.append(logits)
        return torch.multinomial(logits.softmax(dim=-1), 1)[:, 0]

    torch.manual_seed(0)
    codes = model.write_patches(states, sampler)
    forced, seen = model.patch_logits(states, codes), iter(seen)
    for step in range(model.config.num_patch_steps):
        for channel, delay in enumerate(model.config.delays):
            if 0 <= step - delay < model.config.group_size:
                zero = model.config.speech_zero_ids[channel]
                written = next(seen)
                assert_close(written[:, :zero], forced[channel][:, step - delay, :zero], **CLOSE)
                assert (written[:, zero] == -math.inf).all()
    assert next(seen, None) is None


@torch.no_grad()
def test_the_zero_id_is_never_written(speech_lm):
    model = speech_lm()
    for head, zero in zip(model.local_transformer_lm_heads, model.config.speech_zero_ids, strict=True):
        head.weight[zero] = 100 * head.weight[0]
    states, _ = draw(model, 200)
    for sampler in (lambda s: s.argmax(dim=-1), lambda s: torch.multinomial(s.softmax(dim=-1), 1)[:, 0]):
        codes = model.write_patches(states, sampler)
        assert (codes < torch.tensor(model.config.speech_zero_ids)).all()
        assert (codes >= 0).all()


@torch.no_grad()
@pytest.mark.parametrize("delays", ["0-2-1", "0-0-0", "0-1-2"])
def test_a_code_depends_on_those_of_earlier_steps_and_on_no_other(speech_lm, delays):
    model = speech_lm(delay_pattern=delays, group_size=3)
    states, codes = draw(model, 1)
    before, delay = model.patch_logits(states, codes), model.config.delays
    places = [(frame, channel) for frame in range(3) for channel in range(3)]
    for frame, channel in places:
        changed = codes.clone()
        changed[0, frame, channel] = (changed[0, frame, channel] + 1) % 4
        after = model.patch_logits(states, changed)
        for other, of in places:
            moved = (after[of][0, other] - before[of][0, other]).abs().max()
            if delay[channel] + frame < delay[of] + other:
                assert moved > 1e-4
            else:
                assert moved == 0
