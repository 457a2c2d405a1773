"""Actions (tools, rewards, judges, teachers) that share cores, GPUs and API quotas, after ARL-Tangram. See README.md."""

from importlib import import_module
from typing import TYPE_CHECKING

_HOME = {
    "Action": "types",
    "ActionHandle": "handles",
    "ActionScheduler": "live",
    "ActionTimeout": "errors",
    "AlreadyOwned": "owner",
    "Amdahl": "types",
    "Command": "types",
    "Concurrency": "resources",
    "ElasticRange": "types",
    "EnvironmentLost": "errors",
    "ModelService": "services",
    "PinnedHostHook": "pinned",
    "PowerLaw": "types",
    "QueueFull": "errors",
    "QuotaRefused": "errors",
    "SchedulerClient": "client",
    "SchedulerConfig": "config",
    "SchedulerLost": "errors",
    "ServiceCall": "types",
    "TableCurve": "types",
    "TokenBucket": "resources",
    "TorchService": "accel",
    "Unsatisfiable": "errors",
    "Window": "resources",
    "WorkerLost": "errors",
}

if TYPE_CHECKING:
    from .accel import TorchService
    from .client import SchedulerClient
    from .config import SchedulerConfig
    from .errors import (
        ActionTimeout,
        EnvironmentLost,
        QueueFull,
        QuotaRefused,
        SchedulerLost,
        Unsatisfiable,
        WorkerLost,
    )
    from .handles import ActionHandle
    from .live import ActionScheduler
    from .owner import AlreadyOwned
    from .pinned import PinnedHostHook
    from .resources import Concurrency, TokenBucket, Window
    from .services import ModelService
    from .types import Action, Amdahl, Command, ElasticRange, PowerLaw, ServiceCall, TableCurve


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mimo_hf.scheduler' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


__all__ = [
    "Action",
    "ActionHandle",
    "ActionScheduler",
    "ActionTimeout",
    "AlreadyOwned",
    "Amdahl",
    "Command",
    "Concurrency",
    "ElasticRange",
    "EnvironmentLost",
    "ModelService",
    "PinnedHostHook",
    "PowerLaw",
    "QueueFull",
    "QuotaRefused",
    "SchedulerClient",
    "SchedulerConfig",
    "SchedulerLost",
    "ServiceCall",
    "TableCurve",
    "TokenBucket",
    "TorchService",
    "Unsatisfiable",
    "Window",
    "WorkerLost",
]
