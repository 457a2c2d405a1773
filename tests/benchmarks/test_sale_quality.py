"""benchmarks/sale_quality.py: means keep as many tiles as SALE, and what is lost is told against dense attention."""

import pytest
import torch


@pytest.fixture(scope="module")
def bench():
    import sale_quality

    return sale_quality


def test_means_keep_as_many_tiles_in_each_row_and_the_best(bench):
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 700, 16) * 3, torch.randn(1, 1, 900, 16)
    pooled = bench.MeanPooled()
    pooled.kernel = sale = bench.attention_sale.kernel()
    kept = sale.select_blocks(q, k, 2.0)
    own, means = (sale.unpack_tiles(bits, 29) for bits in (kept, pooled.instead_of(kept, q, k)))
    assert torch.equal(own.sum(-1), means.sum(-1))
    assert not torch.equal(own, means)
    layout = sale.Layout(700, 900, sale.Tiling())
    estimated = layout.estimated(9)
    scores = torch.stack(
        [q[0, 1, 576:640].mean(0) @ k[0, 0, 32 * tile : 32 * tile + 32].mean(0) for tile in estimated]
    )
    chosen = means[0, 1, 9, estimated.start : estimated.stop]
    assert 0 < chosen.sum() < len(estimated)
    assert scores[chosen].min() > scores[~chosen].max()


def test_losses_are_told_against_dense_attention(bench):
    rows = [
        {"seed": seed, "window": 0, "way": way, "density": 0.5, "loss": loss, "right": 0.5, "same_as_dense": 1.0}
        for seed, way, loss in ((0, "dense", 2.0), (0, "tau", 2.5), (1, "dense", 3.0), (1, "tau", 3.1))
    ]
    dense, tau = bench.summary(rows)
    assert (dense["loss_more"], dense["loss"]) == (0.0, 2.5)
    assert (tau["loss_more"], tau["loss_more_least"], tau["loss_more_most"]) == (0.3, 0.1, 0.5)
