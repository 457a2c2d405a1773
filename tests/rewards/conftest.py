"""Sandboxes of both kinds, with limits that hostile programs reach soon."""

import asyncio
import shutil
import warnings

import pytest

from mimo_hf.rewards import Limits, Sandbox

LIMITS = Limits(timeout_s=1.5, memory_bytes=256 << 20, output_bytes=64 << 10, processes=24)


def open_sandbox(backend, **options):
    if backend == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap (the program bwrap) is not installed")
    return Sandbox(backend, **{"workers": 1, "limits": LIMITS} | options)


@pytest.fixture(scope="session", params=["bwrap", "subprocess"])
def sandbox(request):
    with open_sandbox(request.param) as opened:
        yield opened


@pytest.fixture(scope="session")
def bwrap():
    with open_sandbox("bwrap") as opened:
        yield opened


@pytest.fixture(scope="session")
def any_sandbox():
    """The best one that is here; its two workers are warm for all tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Sandbox(workers=2, limits=LIMITS) as opened:
            yield opened


def call(reward, completions, prompts=None, **columns):
    """One call of an asynchronous reward, as a trainer makes it."""
    prompts = [""] * len(completions) if prompts is None else prompts
    return asyncio.run(reward(prompts=prompts, completions=completions, **columns))
