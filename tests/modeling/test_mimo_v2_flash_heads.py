"""MTP heads of MiMo-V2-Flash against the equations of arXiv 2601.02780, section 2, computed in loops."""

import pytest
import torch
from torch.testing import assert_close

TOLERANCE = {"rtol": 0, "atol": 1e-4, "check_dtype": False}
HEADS = [0, 1, 2]
LENGTH = 14  # rows beyond the window of 5


@pytest.fixture(scope="module", params=["eager", "mimo_sink"])
def model(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def ids(tokens):
    return tokens(2, LENGTH)


@pytest.fixture(scope="module")
def logits(model, ids):
    with torch.no_grad():
        return model.mtp_logits(ids)


@pytest.fixture(scope="module")
def states(model, ids, states_of):
    return states_of(model, ids)


@pytest.mark.parametrize("k", HEADS)
def test_head_follows_the_equations(model, ids, logits, states, head_oracle, k):
    assert logits[k].shape == (2, LENGTH - 1 - k, 29)
    assert logits[k].std() > 0.1
    for row in range(2):
        assert_close(logits[k][row], head_oracle(model, k, ids[row], states[row]).all_logits(), **TOLERANCE)


@pytest.mark.parametrize(
    ("deviation", "changes"),
    [
        ("the embedding comes second", {"hidden_first": True}),
        ("values are not scaled", {"value_scale": 1.0}),
        ("there is no sink", {"sinks": None}),
        ("the window is one row shorter", {"window": 4}),
        ("the window is one row longer", {"window": 6}),
        ("the rotary base is the global layers'", {"theta": 5_000_000.0}),
    ],
)
@pytest.mark.parametrize("k", HEADS)
def test_the_check_would_notice_that(model, ids, logits, states, head_oracle, k, deviation, changes):
    deviant = head_oracle(model, k, ids[0], states[0], **changes).all_logits()
    assert (logits[k][0] - deviant).abs().max() > 1e-2, deviation


@pytest.mark.parametrize("k", HEADS)
def test_the_check_would_notice_states_after_the_final_norm(model, ids, logits, states, head_oracle, k):
    with torch.no_grad():
        normed = model.model.norm(states[0])
    deviant = head_oracle(model, k, ids[0], normed).all_logits()
    assert (logits[k][0] - deviant).abs().max() > 1e-2


@pytest.mark.parametrize("k", [1, 2])
def test_the_check_would_notice_chained_heads(model, ids, logits, states, head_oracle, k):
    chained = states[0]
    for earlier in range(k):
        chained = head_oracle(model, earlier, ids[0], chained).all_outputs()
    deviant = head_oracle(model, k, ids[0], chained).all_logits()
    assert (logits[k][0, : len(deviant)] - deviant).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("k", HEADS)
def test_states_after_the_final_norm_on_request(tiny_model, ids, states_of, head_oracle, k):
    model = tiny_model(mtp_hidden_source="post_norm")
    states = states_of(model, ids[:1])[0]
    gain, epsilon = model.model.norm.weight, model.config.rms_norm_eps
    normed = states / (states.pow(2).mean(dim=-1, keepdim=True) + epsilon).sqrt() * gain
    assert_close(model.mtp_logits(ids[:1])[k][0], head_oracle(model, k, ids[0], normed).all_logits(), **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("k", HEADS)
def test_heads_follow_changed_rotary_and_value_settings(tiny_model, ids, states_of, head_oracle, k):
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 700.0, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.25},
    }
    model = tiny_model(rope_parameters=rope, attention_value_scale=0.4, sliding_window=3, rms_norm_eps=0.03)
    oracle = head_oracle(model, k, ids[0], states_of(model, ids[:1])[0])
    assert (oracle.rotary_dims, oracle.theta, oracle.window, oracle.value_scale) == (6, 50.0, 3, 0.4)
    assert_close(model.mtp_logits(ids[:1])[k][0], oracle.all_logits(), **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("k", HEADS)
def test_left_padding_changes_nothing(model, ids, states_of, head_oracle, k):
    padding = torch.tensor([3, 9])
    mask = (torch.arange(LENGTH) >= padding[:, None]).long()
    logits = model.mtp_logits(ids * mask, attention_mask=mask)
    assert all(part.isfinite().all() for part in logits)
    for row, start in enumerate(padding.tolist()):
        alone = ids[row : row + 1, start:]
        expected = head_oracle(model, k, alone[0], states_of(model, alone)[0]).all_logits()
        assert_close(logits[k][row, start:], expected, **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("k", HEADS)
@pytest.mark.parametrize("changed", [0, 1, 4, LENGTH - 1])
def test_a_token_changes_no_earlier_row(model, ids, logits, k, changed):
    """Head k reads t_{i+1+k} and h_i at row i: t_j matters from row j - 1 - k on, or from j on if there is no such row."""
    other = ids.clone()
    other[:, changed] = (other[:, changed] + 1) % 29
    difference = (model.mtp_logits(other)[k] - logits[k]).abs().amax(dim=(0, 2))
    first = changed - 1 - k if changed >= 1 + k else changed
    assert (difference[:first] < 1e-5).all()
    assert difference[first] > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_texts_have_no_rows_for_late_heads(model, tokens, length):
    logits = model.mtp_logits(tokens(2, length))
    assert [part.shape for part in logits] == [(2, max(length - 1 - k, 0), 29) for k in HEADS]


def test_without_heads_the_error_says_how_to_get_them(tiny_model, ids):
    model = tiny_model(num_mtp_layers=0)
    with pytest.raises(ValueError, match="num_mtp_layers"):
        model.mtp_logits(ids)
