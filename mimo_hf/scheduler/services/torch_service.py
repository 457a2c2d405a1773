"""Modules as services: device memory as accelerate sees it, and a restore that is one copy."""

import math
from collections.abc import Callable
from typing import Any

from .manager import ModelService


def gpu_budget_bytes(reserve: float) -> float:
    """Device memory that accelerate finds free, less the share `reserve`; without a device, infinity."""
    import torch
    from accelerate.utils import get_max_memory

    if not torch.cuda.is_available():
        return math.inf
    return (1 - reserve) * sum(amount for device, amount in get_max_memory().items() if device not in ("cpu", "disk"))


class TorchService(ModelService):
    """
    A module as a service.

    Args:
        make: builds or loads the module, in eval mode, on the CPU.
        call: (module, list of requests) -> list of results; runs without gradients.
        nbytes: device memory it needs, workspace included.
        device: where it runs; None: accelerate's default device.
    """

    def __init__(
        self, make: Callable[[], Any], call: Callable[[Any, list[Any]], list[Any]], nbytes: int, device: Any = None,
        restore_cost_s: float = 1.0, max_batch_tokens: int = 1, max_wait_ms: float = 0.0,
    ):  # fmt: skip
        self._make, self._call = make, call
        self.nbytes = nbytes
        self.device = device
        self.restore_cost_s = restore_cost_s
        self.max_batch_tokens, self.max_wait_ms = max_batch_tokens, max_wait_ms
        self.module: Any = None
        self.hook: Any = None

    def load(self):
        from accelerate import PartialState

        from .pinned import pinned_offload_with_hook

        device = PartialState().default_device if self.device is None else self.device
        self.module, self.hook = pinned_offload_with_hook(self._make(), device)

    def to_device(self):
        self.hook.restore()

    def to_host(self):
        self.hook.offload()

    def call(self, batch: list[Any]) -> list[Any]:
        import torch

        with torch.no_grad():
            return self._call(self.module, batch)
