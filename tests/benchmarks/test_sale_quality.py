"""benchmarks/sale_quality.py: means keep as many tiles as SALE, and what is lost is told against dense attention."""

import numpy as np
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


def test_losses_are_told_against_dense_attention_and_the_sparsest_good_way_is_found(bench):
    rows = [
        {"seed": seed, "context": 1024, "way": way, "density": density, "loss": loss, "accuracy": accuracy}
        for seed, way, density, loss, accuracy in (
            (0, "dense", 1.0, 2.0, 0.9), (0, "tau 1", 0.4, 2.5, 0.895), (0, "tau 2", 0.2, 2.5, 0.9), (0, "means", 0.1, 2.0, 0.9),
            (1, "dense", 1.0, 3.0, 0.8), (1, "tau 1", 0.3, 3.1, 0.81), (1, "tau 2", 0.2, 3.1, 0.7), (1, "means", 0.1, 2.0, 0.8),
        )
    ]  # fmt: skip
    table = bench.summary(rows)
    dense, tau = table[:2]
    assert dense["accuracy_less_by_seed"] == [0, 0]
    assert (dense["loss"], dense["accuracy"]) == (2.5, 0.85)
    assert (tau["density"], tau["density_most"]) == (0.35, 0.4)
    assert tau["accuracy_less_by_seed"] == [0.005, -0.01]
    assert tau["loss_more_by_seed"] == [0.5, 0.1]
    assert bench.frontier(table) == [tau]  # "tau 2" loses ten points in a seed, means are not SALE's


def test_texts_ask_for_what_they_hold(bench):
    """Read token by token: each answer is the value that its key's record has, and all records lie far from the questions."""
    texts = bench.Texts(torch.arange(5000) % 50, first=50)
    ids, questions = texts.test_row(np.random.default_rng(0), 1024)
    held = {}
    for place, token in enumerate(ids.tolist()):
        if texts.record_ids <= token < texts.question_ids:
            key, value = divmod(token - texts.record_ids, 16)
            held[key] = value
            assert 32 <= place < 1024 - bench.ASKED - 256
    assert len(held) == len(questions) == bench.RECORDS
    for place in questions:
        assert ids[place + 1] - texts.value_ids == held[ids[place] - texts.question_ids]


def test_what_is_taught_can_be_known(bench):
    texts = bench.Texts(torch.arange(5000) % 50, first=50)
    ids, kinds = texts.training_row(np.random.default_rng(1), 96, 0.7)
    held, known = {}, 0
    for place, (token, kind) in enumerate(zip(ids.tolist(), kinds.tolist(), strict=True)):
        if texts.record_ids <= token < texts.question_ids:
            key, value = divmod(token - texts.record_ids, 16)
            held[key] = value
        assert (kind == 0) == (token < 50)
        if kind == 1:
            assert token - texts.value_ids == held[ids[place - 1] - texts.question_ids]
            known += 1
    assert known > 10


def test_positions_have_gaps_between_pairs_only(bench):
    import _sale_model

    rng = np.random.default_rng(2)
    for _ in range(20):
        positions = _sale_model.drawn_apart(rng, 192, 4096)
        steps = np.diff(positions)
        assert steps.min() >= 1
        assert (steps[::2] == 1).all()  # a question and its answer stay together
        assert positions[-1] < 4096
    assert (_sale_model.drawn_apart(rng, 192, 0) <= np.arange(192) + 1).all()


def test_a_few_steps_of_training_teach(bench):
    import _sale_model

    texts = bench.Texts(torch.arange(5000) % 50, first=50)
    torch.manual_seed(0)
    model, right = _sale_model.make_model(texts.vocab_size), []
    stage = _sale_model.Stage(steps=40, length=96, rows=8, learning_rate=3e-3, share=0.7, farthest=512)
    _sale_model.train(model, texts, stage, np.random.default_rng(0), right.append)
    assert len(right) == 40
    assert np.mean(right[-10:]) > 3 * np.mean(right[:3])
