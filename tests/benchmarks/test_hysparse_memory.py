"""benchmarks/hysparse_memory.py and hysparse_cpu.py on short contexts: bytes as the formula has them, and complete rows."""

import pytest


def test_published_sizes_are_reached_to_their_digits():
    import hysparse_memory

    for row in hysparse_memory.published_rows():
        assert row["formula_gb"] == row["published_gb"]


def test_a_filled_cache_and_one_after_a_prefill_hold_what_the_formula_says():
    import hysparse_memory

    (short, long) = hysparse_memory.measured_rows([300, 5000])
    for arm in hysparse_memory.MAIN_ARMS:
        assert short[f"{arm}_is_formula"]
        assert long[f"{arm}_is_formula"]
        assert short[f"{arm}_after_prefill_bytes"] == short[f"{arm}_bytes"]
    assert short["full_over_hysparse"] == pytest.approx(49 * 300 / (5 * 300 + 44 * 127))
    assert hysparse_memory.longest_sparse_layer(300) == 127


def test_decoding_of_both_models_is_timed_on_full_caches():
    import hysparse_cpu

    row = hysparse_cpu.decode_ratio({**hysparse_cpu.SHAPES["80b"], "sliding_window": 16}, context=200, steps=2)
    assert (row["layers"], row["full_layers"]) == (13, 2)
    assert row["full_over_hysparse_min"] <= row["full_over_hysparse"] <= row["full_over_hysparse_max"]
    assert row["full_cache_bytes"] == 13 * 205 * 2 * 128 * 4
    assert row["hysparse_cache_bytes"] == (2 * 205 + 11 * 15) * 2 * 128 * 4


def test_a_prefill_reports_its_peak():
    import hysparse_cpu

    row = hysparse_cpu.prefill_alone("hysparse", 300)
    assert 2e8 < row["peak_before_bytes"] <= row["peak_bytes"] < 2e10
    assert row["cache_bytes"] == (2 * 300 + 3 * 127) * 2 * 128 * 4
