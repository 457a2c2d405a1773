"""Water-filling against its optimality conditions and a plain loop."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from mimo_hf.oam import equal_power, water_filling

gains_lists = st.lists(
    st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-12, 1e12), st.floats(0.1, 10)), min_size=1, max_size=12
)


def loop_water_filling(gains, total):
    """The textbook loop: drop the worst channel until the level covers all that remain."""
    active = sorted((i for i, gain in enumerate(gains) if gain > 0), key=lambda i: -gains[i])
    while active:
        level = (total + math.fsum(1 / gains[i] for i in active)) / len(active)
        if level > 1 / gains[active[-1]] or len(active) == 1:
            break
        active.pop()
    return [max(0.0, level - 1 / gains[i]) if i in active else 0.0 for i in range(len(gains))]


@given(gains_lists, st.floats(1e-9, 1e9))
def test_water_filling_satisfies_the_kkt_conditions(gains, total):
    power = water_filling(torch.tensor(gains, dtype=torch.float64), total)
    assert bool((power >= 0).all())
    positive = [(p, 1 / gain) for p, gain in zip(power.tolist(), gains, strict=True) if gain > 0]
    if not positive:
        assert float(power.sum()) == 0
        return
    assert float(power.sum()) == pytest.approx(total, rel=1e-9)
    assert all(p == 0 for p, gain in zip(power.tolist(), gains, strict=True) if gain == 0)
    levels = [p + inverse for p, inverse in positive if p > 0]
    rounding = 1e-12 * max(inverse for _, inverse in positive)
    assert max(levels) - min(levels) <= 1e-9 * max(levels) + rounding
    assert all(inverse >= min(levels) * (1 - 1e-9) - rounding for p, inverse in positive if p == 0)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.floats(0.01, 100))
def test_water_filling_agrees_with_a_loop(gains, total):
    power = water_filling(torch.tensor(gains, dtype=torch.float64), total)
    assert power.tolist() == pytest.approx(loop_water_filling(gains, total), abs=1e-9 * total + 1e-12)


def test_batched_equals_one_by_one(random_complex):
    gains = random_complex(0, 5, 6, 7).real.abs()
    totals = torch.linspace(0.1, 3, 6, dtype=torch.float64)
    batched = water_filling(gains, totals)
    for i in range(5):
        for j in range(6):
            torch.testing.assert_close(batched[i, j], water_filling(gains[i, j], totals[j]))


def test_one_channel_gets_everything_however_weak():
    assert water_filling(torch.tensor([1e-30]), 1.0).tolist() == [1.0]
    assert water_filling(torch.tensor([0.0, 1e-30]), 1.0).tolist() == [0.0, 1.0]


def test_no_usable_channel_gets_nothing():
    assert water_filling(torch.zeros(2, 3), 1.0).tolist() == [[0.0] * 3] * 2


def test_gradients_with_unused_and_zero_gains():
    gains = torch.tensor([2.0, 1.0, 0.05], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: water_filling(g, 1.0), gains)
    zero = torch.tensor([2.0, 0.0], dtype=torch.float64, requires_grad=True)
    water_filling(zero, 1.0).square().sum().backward()
    assert bool(torch.isfinite(zero.grad).all())


def test_equal_power():
    assert equal_power(4, 2.0).tolist() == [0.5] * 4
    assert equal_power(4, torch.tensor([1.0, 4.0])).tolist() == [[0.25] * 4, [1.0] * 4]


@pytest.mark.parametrize("total", [0.0, -1.0, math.nan, math.inf])
def test_bad_total_power_is_refused(total):
    with pytest.raises(ValueError, match="total_power"):
        water_filling(torch.ones(3), total)
    with pytest.raises(ValueError, match="total_power"):
        equal_power(3, total)


@pytest.mark.parametrize("gains", [[-1.0, 1.0], [math.nan, 1.0], [math.inf, 1.0], [], 1.0])
def test_bad_gains_are_refused(gains):
    with pytest.raises(ValueError, match="gains"):
        water_filling(torch.tensor(gains), 1.0)
