"""Cores, GPU cells and quotas against plain bookkeeping."""

import copy
import math
import random

import pytest

from mimo_hf.scheduler.core.resources import Concurrency, Cores, GpuCells, TokenBucket, Window


def test_cores_come_from_the_smallest_numa_node_that_fits():
    cores = Cores([range(4), range(4, 12)])
    assert cores.take(3) == (0, 1, 2)
    assert cores.take(2) == (4, 5)  # one core of the first node is left
    assert cores.take(1) == (3,)
    assert cores.take(6) == (6, 7, 8, 9, 10, 11)
    assert cores.free == 0
    with pytest.raises(ValueError, match="0 are free"):
        cores.take(1)


def test_a_large_request_is_split_over_as_few_nodes_as_possible():
    cores = Cores([range(2), range(2, 6), range(6, 10)])
    assert set(cores.take(8)) == set(range(2, 10))


def test_siblings_listed_together_stay_together():
    cores = Cores([[0, 8, 1, 9, 2, 10]])
    first = cores.take(2)
    assert first == (0, 8)
    cores.take(1)
    cores.give(first)
    assert cores.take(2) == (0, 8)


def test_random_use_of_cores_never_hands_one_out_twice():
    rng = random.Random(0)
    cores, held = Cores([range(5), range(5, 12)]), []
    for _ in range(2000):
        if held and rng.random() < 0.5:
            cores.give(held.pop(rng.randrange(len(held))))
        else:
            count = rng.randint(1, 4)
            if count <= cores.free:
                held.append(cores.take(count))
        taken = [core for lease in held for core in lease]
        assert len(taken) == len(set(taken)) == 12 - cores.free
    with pytest.raises(ValueError, match="twice"):
        cores.give([next(core for core in range(12) if core not in taken)])


@pytest.mark.parametrize("gpus", [1, 2, 4, 6, 8, 12])
def test_cells_are_disjoint_aligned_and_together_all_gpus(gpus):
    rng = random.Random(gpus)
    cells, held = GpuCells(gpus), []
    for _ in range(2000):
        size = rng.choice([1, 2, 4, 8])
        free = set(range(gpus)) - {gpu for block in held for gpu in block}
        aligned = any(set(range(start, start + size)) <= free for start in range(0, gpus - size + 1, size))
        assert not cells.fits(size) or aligned
        if gpus in (1, 2, 4, 8):  # one buddy tree: a free aligned block is always found
            assert cells.fits(size) == aligned
        if held and (rng.random() < 0.5 or not cells.fits(size)):
            cells.give(held.pop(rng.randrange(len(held))))
        elif cells.fits(size):
            block = cells.take(size)
            assert block[0] % size == 0
            assert set(block) <= free
            held.append(block)
        covered = [gpu for start, length, _ in cells.blocks() for gpu in range(start, start + length)]
        assert covered == list(range(gpus))
    for block in held:
        cells.give(block)
    assert cells.blocks() == GpuCells(gpus).blocks()
    with pytest.raises(ValueError, match="not taken"):
        cells.give((0,))


def test_a_block_where_the_service_is_resident_is_preferred():
    cells = GpuCells(8)
    a, b = cells.take(2), cells.take(2)
    cells.take(4)
    cells.give(a)
    cells.give(b[:2])
    blocks = GpuCells(8)
    kept = [blocks.take(2) for _ in range(4)]
    blocks.give(kept[3])
    blocks.give(kept[0])
    assert blocks.take(2, prefer=[6]) == (6, 7)


@pytest.mark.parametrize("seed", range(20))
def test_a_bucket_grants_at_most_rate_times_t_plus_burst_in_any_window(seed):
    rng = random.Random(seed)
    rate, burst = rng.uniform(0.5, 20), rng.randint(1, 10)
    bucket, now, grants = TokenBucket(rate, burst), 0.0, []
    for _ in range(600):
        now += rng.choice([0.0, rng.expovariate(2 * rate)])
        if bucket.fits(1, now):
            bucket.take(1, now)
            grants.append(now)
        else:
            at = bucket.ready_s(1, now)
            assert at > now
            assert not copy.copy(bucket).fits(1, (now + at) / 2)
            assert copy.copy(bucket).fits(1, at)
    for i, start in enumerate(grants):
        for j in range(i, len(grants)):
            assert j - i + 1 <= rate * (grants[j] - start) + burst + 1e-6
    assert len(grants) > 50


@pytest.mark.parametrize("seed", range(10))
def test_a_window_is_never_overfull(seed):
    rng = random.Random(seed)
    window, now, grants = Window(5, 2.0), 0.0, []
    for _ in range(400):
        now += rng.expovariate(4)
        if window.fits(1, now):
            window.take(1, now)
            grants.append(now)
        else:
            ready = window.ready_s(1, now)
            assert sum(ready - 2.0 + 1e-9 < at <= ready for at in grants) < 5
    for start in grants:
        assert sum(start <= at < start + 2.0 - 1e-9 for at in grants) <= 5


def test_a_refusal_halves_concurrency_and_successes_regrow_it():
    quota = Concurrency(8)
    quota.refused(0.0)
    for _ in range(4):
        assert quota.fits(1, 0.0)
        quota.take(1, 0.0)
    assert not quota.fits(1, 0.0)
    for _ in range(200):
        quota.succeeded(0.0)
    assert quota.allowed == 8


def test_retry_after_closes_a_bucket():
    bucket = TokenBucket(10.0, 5)
    bucket.take(1, 0.0)
    bucket.refused(0.0, retry_after_s=3.0)
    assert not bucket.fits(1, 2.9)
    assert bucket.ready_s(1, 0.0) == 3.0
    assert bucket.fits(1, 3.0)
    assert bucket.rate == 5.0
    for _ in range(100):
        bucket.succeeded(4.0)
    assert bucket.rate == 10.0


@pytest.mark.parametrize(
    "make",
    [lambda: Concurrency(0), lambda: TokenBucket(0, 1), lambda: TokenBucket(1, 0), lambda: TokenBucket(math.nan, 1),
     lambda: Window(0, 1), lambda: Window(1, 0), lambda: GpuCells(0)],
)  # fmt: skip
def test_an_impossible_quota_is_refused(make):
    with pytest.raises(ValueError, match=r"must"):
        make()
