"""Who gets what, when: types, durations, policies, resources, the book and the queue. Pure: no clock, no files, no torch."""

from ...moved import forward

__getattr__ = forward(__name__, f"{__name__}.scheduler")  # what was in core.py
