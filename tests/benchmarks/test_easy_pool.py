"""benchmarks/easy_pool.py: what is counted, and the two effects that the pool is for."""

import pytest


@pytest.fixture(scope="module")
def runs():
    import easy_pool

    return {arm: easy_pool.run(alpha, forget=0.01, seed=0, steps=200) for arm, alpha in easy_pool.ARMS.items()}


def test_a_batch_takes_at_least_its_own_groups(runs):
    assert min(run["groups_a_batch_early"] for run in runs.values()) >= 1
    assert runs["no pool"]["pool_share"] == 0


def test_the_pool_spares_groups_where_most_problems_are_solved(runs):
    assert runs["pool, 0.1"]["groups_a_batch_late"] < runs["no pool"]["groups_a_batch_late"]


def test_deleted_problems_regress_unnoticed(runs):
    assert runs["deleted"]["regressed_in_the_pool"] > runs["pool, 0.3"]["regressed_in_the_pool"]
    assert runs["deleted"]["pass_rate_at_the_end"] < runs["pool, 0.1"]["pass_rate_at_the_end"]
