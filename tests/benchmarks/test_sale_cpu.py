"""benchmarks/sale_cpu.py: the densities that it asks for, and what a prefill holds."""

import pytest


@pytest.fixture(scope="module")
def bench():
    import sale_cpu

    return sale_cpu


@pytest.mark.parametrize("density", [0.3, 0.6, 1.0])
def test_tiles_are_as_many_as_asked_for(bench, density):
    sale = bench.kernels.load("sale-attn")
    layout = sale.Layout(2048, 2048, sale.Tiling())
    kept = sale.unpack_tiles(bench.tiles_at(2048, density), layout.key_tiles)
    assert float(kept.sum()) / bench.HEADS / layout.causal_tiles() == pytest.approx(density, abs=0.06)
    least = sale.unpack_tiles(sale.select_blocks(*bench.inputs(2048)[:2], float("inf")), layout.key_tiles)
    assert (kept | ~least).all()


def test_a_long_prefill_holds_a_small_part_of_a_map_of_all_pairs(bench):
    held = bench.memory(16384)
    assert (
        held["over_all_pairs"] < 2 * bench.MEMORY_GOAL
    )  # it grows with the tokens, all pairs with their square: half at 32k
    assert held["tile_bits_bytes"] == bench.HEADS * 256 * 64
