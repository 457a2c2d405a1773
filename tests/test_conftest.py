"""The root conftest.py, tried on small test files of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

OPTIONAL = """
import pytest

def test_skips_itself():
    pytest.skip("no espeak")

@pytest.mark.skipif(True, reason="no espeak")
def test_is_skipped():
    pass

@pytest.mark.xfail
def test_is_known_to_fail():
    assert False
"""

MODULE = """
import pytest

pytest.importorskip("espeak")
"""

GPU = """
import pytest

@pytest.mark.gpu
def test_on_a_gpu():
    assert False

def test_on_a_cpu():
    pass
"""


def outcomes(folder, source, **environment):
    """Run pytest on one file beside a copy of conftest.py and return its counts, as {'passed': 1}."""
    shutil.copy(ROOT / "conftest.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    (folder / "test_it.py").write_text(source)
    inherited = {name: value for name, value in os.environ.items() if name != "MIMO_HF_REQUIRE_ALL"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", folder]
    run = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False)
    summary = run.stdout.splitlines()[-1]
    return {outcome: int(count) for count, outcome in re.findall(r"(\d+) ([a-z]+)", summary)}


def test_a_skip_is_a_skip(tmp_path):
    assert outcomes(tmp_path, OPTIONAL) == {"skipped": 2, "xfailed": 1}


def test_a_skip_fails_when_all_parts_are_required(tmp_path):
    assert outcomes(tmp_path, OPTIONAL, MIMO_HF_REQUIRE_ALL="1") == {"failed": 1, "error": 1, "xfailed": 1}


@pytest.mark.parametrize(("required", "outcome"), [("0", "skipped"), ("1", "error")])
def test_a_skipped_module_counts_too(tmp_path, required, outcome):
    assert outcomes(tmp_path, MODULE, MIMO_HF_REQUIRE_ALL=required) == {outcome: 1}


def test_gpu_tests_are_deselected_without_a_gpu(tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": "", "MIMO_HF_REQUIRE_ALL": "1"}
    assert outcomes(tmp_path, GPU, **environment) == {"passed": 1, "deselected": 1}
