"""Every kernel compiles for A100 and H100, on the oldest and the newest Triton, without spills and within shared memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPOSITORIES = sorted(path.parents[1] for path in ROOT.glob("kernels/*/tests/aot_cases.py"))

# The oldest Triton lies beside the installed one: `make` puts it there. None: the installed one.
TRITONS = {"3.6.0": Path(sys.prefix) / "triton-3.6.0", "installed": None}

# Of a block, in bytes: 99 KiB on sm_86 and sm_89, which run what is compiled for sm_80; 227 KiB on sm_90.
SHARED_BYTES = {80: 101_376, 90: 232_448}


@pytest.fixture(scope="module", params=TRITONS)
def version(request):
    folder = TRITONS[request.param]
    if folder is not None and not (folder / "triton").is_dir():
        pytest.skip(f"no Triton {request.param}: `make {os.path.relpath(folder, ROOT)}` puts it there")
    return request.param


@pytest.fixture(scope="module", params=REPOSITORIES, ids=lambda path: path.name)
def repository(request):
    return request.param


@pytest.fixture(scope="module")
def compiled(version, repository):
    """Rows of what `_aot.py` prints."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(TRITONS[version] or "")
    package = repository / "torch-ext" / repository.name.replace("-", "_")
    cases = repository / "tests" / "aot_cases.py"
    command = [sys.executable, Path(__file__).parent / "_aot.py", package, cases, *map(str, SHARED_BYTES)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert version in ("installed", report["triton"])
    return report["compiled"]


@pytest.mark.slow
def test_no_kernel_spills_registers_or_exceeds_shared_memory(compiled):
    assert {row["capability"] for row in compiled} == set(SHARED_BYTES)
    spilling = [row for row in compiled if row["stack_bytes"] > 0]
    too_large = [row for row in compiled if row["shared_bytes"] > SHARED_BYTES[row["capability"]]]
    assert (spilling, too_large) == ([], [])


@pytest.mark.slow
def test_every_kernel_is_compiled(compiled, repository):
    """Its own, and those of the modules of `_shared` that it imports from."""
    own = [path.read_text() for path in repository.glob("torch-ext/*/*.py")]
    shared = {name for source in own for name in re.findall(r"^from \._shared\.(\w+) import", source, re.MULTILINE)}
    sources = "\n".join([*own, *((ROOT / "kernels/_shared" / f"{name}.py").read_text() for name in shared)])
    launched = {row["kernel"] for row in compiled}
    assert launched
    assert launched == {
        part.split("(")[0].strip() for part in sources.split("@triton.jit\ndef ") if part.startswith("_")
    }
