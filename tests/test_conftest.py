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

NEEDY = """
import pytest

@pytest.mark.needs("bwrap")
def test_in_a_sandbox():
    pass

@pytest.fixture
def browser(needs):
    needs("chromium", "chromedriver")

def test_in_a_browser(browser):
    pass
"""

GPU = """
import pytest

@pytest.mark.gpu
def test_on_a_gpu():
    assert False

def test_on_a_cpu():
    pass
"""


THREADS = """
import os

def test_threads():
    assert os.environ["OMP_NUM_THREADS"] == "{threads}"
"""


def run_pytest(folder, source, *options, **environment):
    """What pytest prints about one file beside a copy of conftest.py."""
    shutil.copy(ROOT / "conftest.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu\n  needs\naddopts = -rfEs\n")
    (folder / "test_it.py").write_text(source)
    own = ("MIMO_HF_REQUIRE_ALL", "OMP_NUM_THREADS", "PYTEST_XDIST_WORKER")
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, folder]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False).stdout


def outcomes(folder, source, *options, **environment):
    """The counts of pytest's last line, as {'passed': 1}."""
    summary = run_pytest(folder, source, *options, **environment).splitlines()[-1]
    return {outcome: int(count) for count, outcome in re.findall(r"(\d+) ([a-z]+)", summary)}


def test_a_skip_is_a_skip(tmp_path):
    assert outcomes(tmp_path, OPTIONAL) == {"skipped": 2, "xfailed": 1}


def test_a_skip_fails_when_all_parts_are_required(tmp_path):
    assert outcomes(tmp_path, OPTIONAL, MIMO_HF_REQUIRE_ALL="1") == {"failed": 1, "error": 1, "xfailed": 1}


@pytest.mark.parametrize(("required", "outcome"), [("0", "skipped"), ("1", "error")])
def test_a_skipped_module_counts_too(tmp_path, required, outcome):
    assert outcomes(tmp_path, MODULE, MIMO_HF_REQUIRE_ALL=required) == {outcome: 1}


def programs(folder, **scripts):
    """A PATH on which there are these shell scripts only."""
    (folder / "bin").mkdir()
    for name, script in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    return str(folder / "bin")


def test_a_missing_program_is_named_with_its_package(tmp_path):
    printed = run_pytest(tmp_path, NEEDY, PATH=programs(tmp_path))
    assert "not installed: bwrap (Debian: apt-get install bubblewrap)" in printed
    assert "not installed: chromium, chromedriver (Debian: apt-get install chromium chromium-driver)" in printed
    assert "2 skipped" in printed.splitlines()[-1]


def test_a_missing_program_fails_when_all_parts_are_required(tmp_path):
    path = programs(tmp_path)
    assert outcomes(tmp_path, NEEDY, PATH=path, MIMO_HF_REQUIRE_ALL="1") == {"errors": 2}


def test_bubblewrap_without_namespaces_is_as_good_as_none(tmp_path):
    path = programs(tmp_path, bwrap="echo no permissions >&2; exit 1", chromium="", chromedriver="")
    printed = run_pytest(tmp_path, NEEDY, PATH=path)
    assert "bwrap can't make namespaces here (no permissions)" in printed
    assert "1 passed, 1 skipped" in printed.splitlines()[-1]


def test_nothing_is_skipped_where_all_programs_are(tmp_path):
    path = programs(tmp_path, bwrap="exit 0", chromium="", chromedriver="")
    assert outcomes(tmp_path, NEEDY, PATH=path, MIMO_HF_REQUIRE_ALL="1") == {"passed": 2}


@pytest.mark.parametrize(("options", "threads"), [((), 2), (("-p", "xdist", "-n", "2"), 1)])
def test_tests_side_by_side_have_a_core_each(tmp_path, options, threads):
    """More threads than cores wait for each other: minutes where one thread takes seconds."""
    assert outcomes(tmp_path, THREADS.format(threads=threads), *options) == {"passed": 1}


def test_gpu_tests_are_deselected_without_a_gpu(tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": "", "MIMO_HF_REQUIRE_ALL": "1"}
    assert outcomes(tmp_path, GPU, **environment) == {"passed": 1, "deselected": 1}
