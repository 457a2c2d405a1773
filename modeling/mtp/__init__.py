"""Multi-token prediction, shared by MiMo and MiMo-V2-Flash: configuration, heads with their losses, decoding, statistics."""

from ...moved import forward

__getattr__ = forward(__name__, f"{__name__}.mtp")  # what was in mtp.py
