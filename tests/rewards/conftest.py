"""Sandboxes of both kinds, with limits that hostile programs reach soon."""

import asyncio
import os
import shutil
import tempfile
import warnings

import pytest

from mimo_hf.rewards import Limits, Sandbox

LIMITS = Limits(timeout_s=1.5, memory_bytes=256 << 20, output_bytes=64 << 10, processes=24)


def open_sandbox(backend, **options):
    return Sandbox(backend, **{"workers": 1, "limits": LIMITS} | options)


BACKENDS = [pytest.param("bwrap", marks=pytest.mark.needs("bwrap")), "subprocess"]


@pytest.fixture(scope="session", params=BACKENDS)
def sandbox(request):
    with open_sandbox(request.param) as opened:
        yield opened


@pytest.fixture(scope="session")
def bwrap(needs):
    needs("bwrap")
    with open_sandbox("bwrap") as opened:
        yield opened


@pytest.fixture(scope="session")
def unboxed():
    with open_sandbox("subprocess") as opened:
        yield opened


@pytest.fixture(scope="session")
def any_sandbox():
    """The best one that is here; its two workers are warm for all tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Sandbox(workers=2, limits=LIMITS) as opened:
            yield opened


@pytest.fixture
def own_folder(monkeypatch):
    """An empty folder of temporary files that no other process uses; users that nobody is may pass it."""
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o711)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    yield folder
    shutil.rmtree(folder)


def call(reward, completions, prompts=None, **columns):
    """One call of an asynchronous reward, as a trainer makes it."""
    prompts = [""] * len(completions) if prompts is None else prompts
    return asyncio.run(reward(prompts=prompts, completions=completions, **columns))
