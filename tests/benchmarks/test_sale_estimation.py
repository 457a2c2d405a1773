"""benchmarks/sale_estimation.py: its scores are the kernel's choice, and its measures what they say."""

import math

import pytest
import torch


@pytest.fixture(scope="module")
def bench():
    import sale_estimation

    return sale_estimation


@pytest.fixture(scope="module")
def head(bench):
    return bench.with_noise(1536, 3, 1.0)


@pytest.mark.parametrize(
    ("quant", "smooth"), [("exact", True), ("thread", True), ("token", True), ("block", True), ("thread", False)]
)
def test_a_margin_above_the_threshold_is_what_the_kernel_keeps(bench, head, quant, smooth):
    from mimo_hf.hub import kernels

    sale = kernels.load("sale-attn")
    kept = sale.unpack_tiles(
        sale.select_blocks(head.q[None, None], head.k[None, None], 0.02, quant=quant, smooth=smooth), 48
    )
    margins = bench.margins(head, quant, smooth)
    clear = (margins - math.log(0.02)).abs() > 1e-3
    assert torch.equal((margins > math.log(0.02))[clear], kept[0, 0][clear])
    assert clear.float().mean() > 0.99


def test_measures(bench, head):
    scores = bench.margins(head, "exact")
    causal = sum(range(2, 49, 2))  # 24 tiles of queries see 2, 4, ... 48 tiles of keys
    assert bench._layout(head).causal_tiles() == causal
    kept = bench.kept_at_density(scores, causal, 0.5)
    assert kept.sum() == causal // 2
    assert (kept | ~(scores == math.inf)).all()
    everything = scores > -math.inf
    assert bench.needle_recall(everything, head) == 1.0
    mass, error = bench.output_error(everything, head)
    assert (round(mass, 5), round(error, 4)) == (1.0, 0.0)
    needed = bench.needed_density(scores, causal, head, 1.0)
    assert bench.needle_recall(bench.kept_at_density(scores, causal, needed), head) == 1.0
    assert bench.needle_recall(bench.kept_at_density(scores, causal, needed - 1 / causal), head) < 1.0


def test_needles_are_found_by_scores_and_not_by_means(bench):
    rows = {row["estimate"]: row for row in bench.measure(1536, 5)}
    assert rows["4 bits, thread"]["needles_kept_where_mean_pooling_keeps_half"] == 1.0
    assert rows["mean pooling"]["needles_kept_where_mean_pooling_keeps_half"] == pytest.approx(0.5, abs=0.02)
    assert rows["4 bits, thread"]["agrees_with_exact"] > 0.9 > rows["mean pooling"]["agrees_with_exact"]
    (line,) = (line for line in bench.summary(list(rows.values())) if line["estimate"] == "exact")
    assert line["agrees_with_exact"] == 1.0
