"""benchmarks/mtp_batch.py on a small model: forced drafts change no token and are accepted as told, row by row."""

import pytest
import torch


@pytest.fixture(scope="module")
def bench():
    import mtp_batch

    return mtp_batch


def test_forced_drafts_of_a_batch_change_no_token_and_are_accepted_as_told(bench):
    torch.manual_seed(0)
    model = bench.dense_model(2, 32)
    rows = bench.forced_batches(model, [1, 3], context=12, new_tokens=61, repeats=1, targets=(1.0, 2.5, 4.0))
    assert [(row["batch"], row["target"]) for row in rows] == [(b, t) for b in (1, 3) for t in (1.0, 2.5, 4.0)]
    for row in rows:
        assert row["outputs_equal"]
        assert row["acceptance_length"] == pytest.approx(row["target"], abs=0.1)


def test_rows_accept_different_numbers_in_a_round(bench):
    schedule = bench.acceptance_schedule(2.8)
    of_rows = [[schedule[(number + 3 * row) % len(schedule)] for number in range(20)] for row in range(4)]
    assert any(len(set(of_round)) > 1 for of_round in zip(*of_rows, strict=True))


def test_prompts_of_different_lengths_end_at_one_column(bench):
    ids, mask = bench.left_padded([torch.tensor([[5, 6, 7]]), torch.tensor([[8]])])
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
