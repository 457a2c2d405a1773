"""What can go wrong with an action that is not the action's own doing."""

from .core.numbers import MOST_SECONDS, is_number, shown


class SchedulerError(RuntimeError):
    """Base of the errors below."""


class WorkerLost(SchedulerError):
    """The process or node that ran the action died. The action may have started."""


class NotStarted(WorkerLost):
    """The worker or node was lost before the action was sent to it, or none could be started: trying again is harmless."""


class EnvironmentLost(WorkerLost):
    """The node that held the action's environment died, and the environment's state with it."""


class Unsatisfiable(SchedulerError):
    """Capacity shrank below what a queued action needs."""


class QuotaRefused(SchedulerError):
    """
    What an action raises when its provider answers 429: its quotas shrink, and it is tried again once they allow.

    Args:
        retry_after_s: the provider's Retry-After, in seconds; 0 where it gave none. ValueError for what is no time.
    """

    def __init__(self, message: str = "the provider refused the call", retry_after_s: float = 0.0):
        if not is_number(retry_after_s, 0, MOST_SECONDS):
            raise ValueError(
                f"`retry_after_s` of QuotaRefused must be a number of seconds from 0 to {MOST_SECONDS:g}; got {shown(retry_after_s)}."
            )
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.args[0]


class QueueFull(SchedulerError):
    """`max_queue` actions wait already, and `backpressure` is "raise"."""


class SchedulerLost(SchedulerError):
    """The scheduler closed or died before the action ended."""


class ActionTimeout(SchedulerError, TimeoutError):
    """The action ran longer than `timeout_s`, or waited longer than `queue_timeout_s`."""
