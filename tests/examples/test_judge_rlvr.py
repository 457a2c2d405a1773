"""The example runs from its command line, with every number of steps small."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "judge_rlvr.py"


@pytest.mark.slow
def test_the_first_look_prints_all_four_models(warm_python, tmp_path):
    options = "--warm_start_steps 5 --doubt_steps 2 --judge_steps 1 --generate_steps 1 --num_prompts 2 --num_test 8"
    result = warm_python.run(SCRIPT, *options.split(), "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("warm start", "generate", "judge", "judge, then generate"):
        assert any(line.startswith(f"{name:22} accuracy ") for line in result.stdout.splitlines())
