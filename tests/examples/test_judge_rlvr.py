"""The example runs from its command line, with every number of steps small."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "judge_rlvr.py"


@pytest.mark.slow
def test_the_first_look_prints_all_four_models(tmp_path):
    options = "--warm_start_steps 5 --doubt_steps 2 --judge_steps 1 --generate_steps 1 --num_prompts 2 --num_test 8"
    result = subprocess.run(
        [sys.executable, SCRIPT, *options.split(), "--output_dir", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("warm start", "generate", "judge", "judge, then generate"):
        assert any(line.startswith(f"{name:22} accuracy ") for line in result.stdout.splitlines())
