"""A small part of the study: 300 of its 10,000 traces, and that its referee would see a fault."""

import pytest

from mimo_hf.scheduler.core.book import Node


@pytest.mark.parametrize("block", range(3))
def test_everything_starts_within_its_bounds_and_comes_back_whole(block):
    from scheduler_exact import run

    for seed in range(100 * block, 100 * block + 100):
        run(seed)


def test_the_referee_sees_what_is_handed_out_twice(monkeypatch):
    from scheduler_exact import failure

    made = Node.__init__

    def larger(self, name, capacity, *rest):
        made(self, name, capacity, *rest)
        self.left = {resource: count + count // 3 for resource, count in self.left.items()}

    monkeypatch.setattr(Node, "__init__", larger)
    assert any(failure(seed) for seed in range(20))
