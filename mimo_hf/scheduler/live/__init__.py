"""The core under the real clock: `ActionScheduler`, which has a `Dispatcher`; handles, metrics, recording."""

from ...moved import forward

__getattr__ = forward(__name__, f"{__name__}.scheduler")  # what was in live.py
