"""benchmarks/seamless.py: its picture."""

import math

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench():
    import seamless

    return seamless


def test_speed_ups_are_drawn_beside_the_papers(bench, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(bench, "save", lambda picture, path: drawn.append((picture, path)))
    bench.plot([{"arm": "naive", "speed_up": 1.0}, {"arm": "sized rounds", "speed_up": 0.5}], tmp_path / "a.svg")
    ((picture, path),) = drawn
    assert path == tmp_path / "a.svg"
    ours, papers = ([bar.get_width() for bar in bars] for bars in picture.axes[0].containers)
    assert ours == [1.0, 0.5]
    np.testing.assert_array_equal(papers, [bench.PAPER["naive"][0], math.nan])
    assert [label.get_text() for label in picture.axes[0].get_yticklabels()] == ["naive", "sized rounds"]
