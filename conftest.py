"""Settings for every test: offline, a thread a core, no GPU tests without a GPU, and what needs a program that isn't here is skipped, in CI failed."""

import functools
import os
import shutil
import subprocess

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("OMP_NUM_THREADS", "2")
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # side by side, tests have one core each; what the first process has set is inherited
    os.environ["OMP_NUM_THREADS"] = "1"

# Before anything is collected: with --import-mode=importlib, a test under kernels/ would otherwise make the folder
# itself the module `kernels`, for all later tests too.
import kernels
import pytest

assert hasattr(kernels, "get_kernel"), f"`import kernels` gives {kernels.__path__}, not the kernels library"

# System programs and recordings that tests may need, with their packages in Debian. Everything else is Python's or POSIX's.
PACKAGES = {
    "/usr/share/asterisk/sounds/en_US_f_Allison": "asterisk-core-sounds-en-g722",
    "/usr/share/pocketsphinx/test/data": "pocketsphinx-testdata",
    "bwrap": "bubblewrap",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "espeak-ng": "espeak-ng",
}
# What our sandboxes ask for; in a container the kernel may refuse it.
BWRAP_PROBE = "bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp true"


@functools.cache
def _refusal():
    """Why bwrap can't work here, or an empty text."""
    probe = subprocess.run(BWRAP_PROBE.split(), check=False, capture_output=True, text=True)
    if probe.returncode == 0:
        return ""
    said = probe.stderr.strip().replace("\n", "; ")
    return f"bwrap can't make namespaces here ({said}): in a container, --privileged allows it"


def need(*programs):
    """Skips the test unless these programs are here and work, or folders are; a test says so with `@pytest.mark.needs("bwrap")`."""
    missing = {
        name: PACKAGES[name]
        for name in programs
        if not (shutil.which(name) or (name[0] == "/" and os.path.isdir(name)))
    }
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: apt-get install {' '.join(missing.values())})")
    if "bwrap" in programs and _refusal():
        pytest.skip(_refusal())


@pytest.fixture(scope="session")
def needs():
    """`need`, for fixtures."""
    return need


def pytest_runtest_setup(item):
    for mark in item.iter_markers("needs"):
        need(*mark.args)


def pytest_collection_modifyitems(config, items):
    """Deselect tests marked gpu where there is no CUDA device."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]


def _refuse_skip(report):
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get("MIMO_HF_REQUIRE_ALL") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason} (MIMO_HF_REQUIRE_ALL=1 turns skips into failures)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _refuse_skip((yield))
