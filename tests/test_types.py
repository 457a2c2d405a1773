"""A user's checker sees our types: in the editable install that `make` makes, and with the repository on PYTHONPATH."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USER_FILE = """
from mimo_hf import HySparseConfig
from mimo_hf.modeling.mimo import MiMoConfig
from mimo_hf.rewards import math_verify_reward
from mimo_hf.rewards.sandbox import Sandbox
from mimo_hf.trainers import MiMoRLConfig

reveal_type(MiMoConfig.get_mtp_config)
reveal_type(HySparseConfig.serves_sparse_layers)
reveal_type(math_verify_reward)
reveal_type(Sandbox.run)
reveal_type(MiMoRLConfig.max_sampling_rounds)
wrong: int = MiMoRLConfig.on_exhausted
"""
REVEALED = [(8, "MiMoConfig"), (9, "bool"), (10, "MathReward"), (11, "Result"), (12, "int")]
WRONG = 13

# What our own files say of themselves is the question; to read torch and transformers as well takes minutes.
MYPY = """
[mypy]
follow_imports = silent
[mypy-torch.*,transformers.*,trl.*,accelerate.*,datasets.*,peft.*,numpy.*,huggingface_hub.*,safetensors.*]
follow_imports = skip
"""
CHECKERS = {
    "mypy": ["mypy", "--no-incremental"],
    "pyright": ["basedpyright", "--pythonpath", sys.executable],
}


def check(checker, folder, **environment):
    """The checker's lines about the user's file, by line number."""
    name, *options = CHECKERS[checker]
    command = [str(Path(sys.executable).parent / name), *options, "user.py"]
    clean = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "MYPYPATH"}}
    run = subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, check=False)
    lines = {}
    for text in run.stdout.splitlines():
        place, _, message = text.partition("user.py:")[2].partition(" ")
        number = place.partition(":")[0]
        if number.isdigit():
            lines[int(number)] = lines.get(int(number), "") + message
    assert lines, run.stdout + run.stderr
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_checker_sees_the_types_of_models_trainers_and_rewards(checker, tmp_path):
    (tmp_path / "user.py").write_text(USER_FILE)
    (tmp_path / "mypy.ini").write_text(MYPY)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')  # pyright's own, not its fork's
    lines = check(checker, tmp_path)
    for number, word in REVEALED:
        assert word in lines[number], lines[number]
        assert "Unknown" not in lines[number]
    assert "error" in lines[WRONG]
    assert sum("error" in message for message in lines.values()) == 1, lines


def run_python(code, folder, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_repository_on_pythonpath_is_the_package(tmp_path):
    """Without site-packages' own path to it, as in a copy that nobody installed."""
    code = "import mimo_hf.modeling, mimo_hf.trainers; print(mimo_hf.modeling.__file__, mimo_hf.trainers.__file__)"
    run = run_python(code, tmp_path, PYTHONPATH=str(ROOT))
    assert run.stdout.split() == [str(ROOT / "mimo_hf" / name / "__init__.py") for name in ("modeling", "trainers")]


@pytest.mark.parametrize("name", ["modeling", "modeling.mimo", "trainers", "trainers.mimo_rl.mimo_rl_config"])
def test_a_room_has_one_name_only(name, tmp_path):
    run = run_python(f"import {name}", ROOT, PYTHONPATH=str(ROOT))
    assert f"is called mimo_hf.{name.partition('.')[0]}" in run.stderr
