"""The OAM examples and benchmarks run, and show what their first lines say."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_script(monkeypatch, capsys):
    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.syspath_prepend(str((ROOT / script).parent))
        runpy.run_path(str(ROOT / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_misaligned_link(run_script, tmp_path):
    plot = tmp_path / "deep" / "tilt.png"
    out = run_script("examples/oam_misaligned_link.py", "--num", "3", "--plot", str(plot))
    assert plot.read_bytes().startswith(b"\x89PNG")
    rows = [line.split() for line in out.splitlines() if "°" in line]
    assert [row[0] for row in rows] == ["0.0°", "30.0°", "60.0°"]
    assert all(float(row[1]) < float(row[2]) <= float(row[-1]) for row in rows[1:])


def test_pointing_improves_with_the_pilots(run_script):
    out = run_script("examples/oam_optimize_pointing.py", "--num_trials", "2", "--pilot_snr_db", "20", "40")
    rows = [line.split() for line in out.splitlines() if " dB " in line]
    errors, efficiencies = [float(row[2]) for row in rows], [float(row[-1]) for row in rows]
    assert errors[1] < errors[0] / 3 < 0.01
    assert efficiencies[1] > 51


def test_claims_keep_their_verdicts(run_script):
    out = run_script("benchmarks/oam_claims.py", "--dry-run")
    found = [
        line.split("  ")[0].strip() or line.strip().split("  ")[0] for line in out.splitlines() if ": " in line[:60]
    ]
    assert found.count("confirmed") == 3
    assert found.count("only under") == 5
    assert "refuted" not in out
