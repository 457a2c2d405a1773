"""Models within a byte budget, brought to the device when they are called."""

from ...moved import forward

__getattr__ = forward(__name__, f"{__name__}.manager")  # what was in services.py
