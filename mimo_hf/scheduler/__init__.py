"""Actions (tools, rewards, judges, teachers) that share cores, GPUs and API quotas, after ARL-Tangram. See README.md."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names
from ..moved import moved

_NAMES = {
    "config": "SchedulerConfig",
    "core.resources": "Concurrency TokenBucket Window",
    "core.types": "Action Amdahl Command ElasticRange PowerLaw ServiceCall TableCurve",
    "errors": "ActionTimeout EnvironmentLost QueueFull QuotaRefused SchedulerLost Unsatisfiable WorkerLost",
    "live.handles": "ActionHandle",
    "live.scheduler": "ActionScheduler",
    "services.manager": "ModelService",
    "services.pinned": "PinnedHostHook",
    "services.torch_service": "TorchService",
    "sharing.client": "SchedulerClient",
    "sharing.owner": "AlreadyOwned",
}

if TYPE_CHECKING:
    from .config import SchedulerConfig
    from .core.resources import Concurrency, TokenBucket, Window
    from .core.types import Action, Amdahl, Command, ElasticRange, PowerLaw, ServiceCall, TableCurve
    from .errors import (
        ActionTimeout,
        EnvironmentLost,
        QueueFull,
        QuotaRefused,
        SchedulerLost,
        Unsatisfiable,
        WorkerLost,
    )
    from .live.handles import ActionHandle
    from .live.scheduler import ActionScheduler
    from .services.manager import ModelService
    from .services.pinned import PinnedHostHook
    from .services.torch_service import TorchService
    from .sharing.client import SchedulerClient
    from .sharing.owner import AlreadyOwned


# Pickles, scripts and notebooks of the last release name these.
moved(
    __name__,
    {
        "accel": "services.torch_service", "book": "core.book", "bounds": "simulate.bounds", "cli": "command",
        "client": "sharing.client", "cpu": "executors.cpu", "dispatch": "live.dispatch", "durations": "core.durations",
        "export": "simulate.export", "handles": "live.handles", "metrics": "live.metrics", "owner": "sharing.owner",
        "pinned": "services.pinned", "policies": "core.policies", "queues": "core.queues", "recording": "live.recording",
        "residency": "services.residency", "resources": "core.resources", "server": "sharing.server",
        "service_sim": "simulate.service_calls", "sim": "simulate.simulator", "teachers": "services.teachers",
        "trace": "simulate.trace", "types": "core.types", "wire": "sharing.wire", "workloads": "simulate.workloads",
    },
)  # fmt: skip


__getattr__, __dir__ = lazy_names(__name__, _NAMES)

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
