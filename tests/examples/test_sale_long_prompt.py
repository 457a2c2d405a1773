"""examples/sale_long_prompt.py: what it prints of the bundled model, with all tiles and with few."""

from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "sale_long_prompt.py"


def test_all_tiles_change_nothing_and_few_change_something(warm_python, tmp_path):
    told = {}
    for tau in ("0.00002", "inf"):
        result = warm_python.run(SCRIPT, "--tokens", "1100", "--tau", tau, "--plot", tmp_path / "density.svg")
        assert result.returncode == 0, result.stderr[-3000:]
        told[tau] = {line.split(":")[0].strip(): line for line in result.stdout.splitlines() if ":" in line}
        picture = (tmp_path / "density.svg").read_text()
        assert "Kept tiles" in picture
        assert "tile of queries" in picture
    losses = {
        tau: [lines[name].split("loss ")[1].split()[0] for name in ("dense", "sale")] for tau, lines in told.items()
    }
    assert losses["0.00002"][0] == losses["0.00002"][1]
    assert losses["inf"][0] == losses["0.00002"][0]
    assert "same guess 100.0%" in told["0.00002"]["logits"]
    assert "mean error 0.0000" not in told["inf"]["logits"]


def test_more_tokens_than_there_are(warm_python):
    result = warm_python.run(SCRIPT, "--tokens", "99999999")
    assert result.returncode
    assert "`tokens` must be at most" in result.stderr
