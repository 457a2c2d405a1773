"""benchmarks/gpu_sink_swa.py: all methods compute the same, and without a GPU there are no figures."""

import json

import pytest
import torch


@pytest.fixture(scope="module")
def bench():
    import gpu_sink_swa

    return gpu_sink_swa


@pytest.fixture(scope="module")
def small(bench):
    """Two key-value heads instead of eight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "HEADS", 16)
        patch.setattr(bench, "KV_HEADS", 2)
        yield bench


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("queries", "keys", "window"), [(60, 60, 20), (60, 60, None), (1, 40, 40), (4, 43, 40)])
def test_all_methods_compute_the_same(small, queries, keys, window):
    workload = {"batch": 2, "queries": queries, "keys": keys, "window": window}
    row = small.measure(workload, small.forward, "cpu", 0.0)
    assert all(row[f"{name}_error"] < 1e-5 for name in ("sink_swa", "flex", "sdpa", "eager"))
    assert all(row[f"{name}_ms"] is None for name in ("sink_swa", "flex", "sdpa", "eager"))


def test_gradients_are_the_same(small):
    workload = {"batch": 1, "queries": 40, "keys": 40, "window": 16}
    row = small.measure(workload, small.gradients, "cpu", 0.0)
    assert all(row[f"{name}_error"] < 1e-5 for name in ("sink_swa", "sdpa", "eager"))
    assert row["flex_error"].startswith("NotImplementedError: ")


def test_a_window_is_what_is_visible(bench):
    pairs = bench.visible_pairs(3, 7, 4, "cpu")[0, 0]
    assert [row.nonzero().flatten().tolist() for row in pairs] == [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]


def test_without_a_gpu_it_says_so(bench, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        bench.main([])
    assert "no CUDA device is present" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_quick_run_writes_nothing(small, capsys, monkeypatch):
    monkeypatch.setattr(small, "record", None)
    small.main(["--device", "cpu", "--quick"])
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["decoding"]) == 3
