"""benchmarks/gpu_hysparse.py: all methods compute what they should, and without a GPU there are no figures."""

import json

import pytest
import torch

NAMES = ("flash", "full", "full_without_selection", "sparse")


@pytest.fixture(scope="module")
def bench():
    import gpu_hysparse

    return gpu_hysparse


@pytest.fixture
def small(bench, monkeypatch):
    """Few heads and channels, small blocks."""
    for name, value in {"SHAPES": {"8/2": (8, 2)}, "HEAD_DIM": 16, "BLOCK_SIZE": 16, "TOPK": 3}.items():
        monkeypatch.setattr(bench, name, value)
    return bench


@pytest.mark.parametrize(("queries", "run"), [(100, "forward"), (100, "gradients"), (1, "forward")])
def test_all_methods_compute_what_they_should(small, queries, run):
    workload = {"heads": "8/2", "queries": queries, "slots": 100}
    row = small.measure(workload, getattr(small, run), "cpu", 0.0)
    assert all(row[f"{name}_error"] < 1e-5 for name in NAMES)
    assert all(row[f"{name}_ms"] is row[f"{name}_peak_bytes"] is None for name in NAMES)
    assert row["blocks_alike"] == 1


def test_the_sparse_layer_is_not_the_full_one(small):
    """Its error would show if it read other blocks, or all of them."""
    inputs = small.make_inputs(8, 2, 100, 100, "cpu")
    sinks = torch.zeros(8)
    truth = small.last_rows(inputs, sinks)
    assert (truth["outputs"]["sparse"] - truth["outputs"]["full"]).norm() > 0.1 * truth["outputs"]["full"].norm()
    wrong = truth["idx"].flip(1)
    found = small.methods(inputs[0], wrong, sinks)["sparse"](*inputs)[:, :, -64:]
    assert (found - truth["outputs"]["sparse"]).norm() > 0.1 * found.norm()


def test_a_step_of_decoding_reads_the_selected_blocks_only(bench):
    assert bench.read_bytes("sparse", 4, 131072, 2) == 1024 * 4 * 256 * 2
    assert bench.read_bytes("full", 4, 131072, 2) == 128 * bench.read_bytes("sparse", 4, 131072, 2)
    assert bench.read_bytes("sparse", 4, 100, 2) == 100 * 4 * 256 * 2


def test_goals_are_judged_at_the_lengths_that_they_are_about(bench):
    def row(heads, slots, full, flash, sparse):
        return {"heads": heads, "slots": slots, "full_ms": full, "full_over_flash": full / flash} | {
            "full_over_sparse": full / sparse
        }

    prefill = [row("64/4", 8192, 1.2, 1.0, 1.0), row("64/4", 65536, 80.0, 79.0, 8.0)]
    decoding = [row("64/4", 131072, 7.0, 7.0, 1.0), row("32/8", 8192, 1.0, 1.0, 1.0)]
    assert bench.goals(prefill, decoding) == {
        "full layer at most 1.1 x flash, prefill, 64/4": {"value": 1.2, "reached": False},
        "sparse layer at least 8 x as fast as full, prefill at 64k, 64/4": {"value": 10.0, "reached": True},
        "sparse layer at least 8 x as fast as full, decoding at 128k, 64/4": {"value": 7.0, "reached": False},
    }


def test_without_a_gpu_it_says_so(bench, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        bench.main([])
    assert "no CUDA device is present" in capsys.readouterr().err


def test_a_quick_run_writes_nothing(small, capsys, monkeypatch):
    monkeypatch.setattr(small, "record", None)
    small.main(["--device", "cpu", "--quick"])
    shown = json.loads(capsys.readouterr().out)
    assert [len(shown[part]) for part in ("prefill", "decoding", "forward_and_backward")] == [1, 1, 1]
    assert shown["goals"] == {}
