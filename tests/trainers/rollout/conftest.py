"""The benchmark of rollouts, whose virtual time the tests use."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
        import seamless

        yield seamless


@pytest.fixture(scope="module")
def play(bench):
    """Runs a coroutine in virtual time; fails where it would wait for ever or leaves an asyncio task behind."""
    return bench.run_in_virtual_time
