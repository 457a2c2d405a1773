"""benchmarks/gpu_sale.py: maps as dense as asked for, the same output from FlexAttention, and no figures without a GPU."""

import json

import pytest
import torch
from torch.testing import assert_close


@pytest.fixture(scope="module")
def bench():
    import gpu_sale

    return gpu_sale


def test_a_random_map_is_as_dense_as_asked_for_where_that_can_be(bench):
    found = [bench.density_of(bench.random_map(4096, 2, density, "cpu"), 4096) for density in (0.05, 0.2, 0.5, 1.0)]
    assert found == [
        pytest.approx(density, abs=0.02) for density in (0.11, 0.2, 0.5, 1.0)
    ]  # 0.11: what is always kept


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_reads_the_same_tiles(bench):
    q, k, v = bench.make_inputs(1536, (4, 2), "cpu", 0)
    kept = bench.random_map(1536, 4, 0.6, "cpu")
    sale = bench.kernels.load("sale-attn")
    assert_close(bench.flex(kept, 1536, "cpu")(q, k, v), sale.attend_blocks(q, k, v, kept), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_without_a_gpu_there_are_no_figures(bench, capsys, tmp_path, monkeypatch):
    row = bench.measure(1536, (2, 1), "cpu", 0.0, 0)
    assert row["error_at_density_1"] < 1e-5
    assert 0 < row["planted_density"] <= row["planted_density_shared"] < 1
    assert {line.get("attend_ms") for line in row["densities"]} == {None}
    assert "flex_error" not in json.dumps(row)
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            bench.main([])
        assert "no CUDA device is present" in capsys.readouterr().err
