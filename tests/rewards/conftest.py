"""Sandboxes of all kinds."""

import asyncio
import os
import shutil
import tempfile

import pytest

from mimo_hf.rewards import Sandbox

from ._attempts import open_sandbox
from ._hostile import LIMITS

BACKENDS = [pytest.param("bwrap", marks=pytest.mark.needs("bwrap")), "subprocess", "plain"]


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
    with Sandbox("bwrap" if shutil.which("bwrap") else "subprocess", workers=2, limits=LIMITS) as opened:
        yield opened


@pytest.fixture
def own_folder(monkeypatch):
    """An empty folder of temporary files that no other process uses; users that nobody is may pass it."""
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o711)  # noqa: S103  programs run as nobody have to pass it
    monkeypatch.setattr(tempfile, "tempdir", folder)
    yield folder
    shutil.rmtree(folder)


def call(reward, completions, prompts=None, **columns):
    """One call of an asynchronous reward, as a trainer makes it."""
    prompts = [""] * len(completions) if prompts is None else prompts
    return asyncio.run(reward(prompts=prompts, completions=completions, **columns))
