"""Settings for every test: offline, two threads, no GPU tests without a GPU, and no silent skips in CI."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("OMP_NUM_THREADS", "2")

# Before anything is collected: with --import-mode=importlib, a test under kernels/ would otherwise make the folder
# itself the module `kernels`, for all later tests too.
import kernels
import pytest

assert hasattr(kernels, "get_kernel"), f"`import kernels` gives {kernels.__path__}, not the kernels library"


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
