"""What can go wrong with an action that is not the action's own doing."""


class SchedulerError(RuntimeError):
    """Base of the errors below."""


class WorkerLost(SchedulerError):
    """The process or node that ran the action died. The action may have started."""


class EnvironmentLost(WorkerLost):
    """The node that held the action's environment died, and the environment's state with it."""


class Unsatisfiable(SchedulerError):
    """Capacity shrank below what a queued action needs."""


class QueueFull(SchedulerError):
    """`max_queue` actions wait already, and `backpressure` is "raise"."""


class SchedulerLost(SchedulerError):
    """The scheduler closed or died before the action ended."""


class ActionTimeout(SchedulerError, TimeoutError):
    """The action ran longer than `timeout_s`, or waited longer than `queue_timeout_s`."""
