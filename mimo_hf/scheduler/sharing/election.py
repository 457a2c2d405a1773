"""Which process of an accelerate job hands out the machine."""

import contextlib
import os
from typing import Any

from ..config import SchedulerConfig
from .client import SchedulerClient
from .owner import ADDRESS_VARIABLE, AlreadyOwned


def elect(scheduler_class: type, config: SchedulerConfig | None, state: Any, options: dict[str, Any]) -> Any:
    """See `ActionScheduler.from_accelerate`."""
    from accelerate import PartialState

    state = PartialState() if state is None else state
    if os.environ.get(ADDRESS_VARIABLE):
        return SchedulerClient().expect(config)
    chosen = None
    if state.is_local_main_process:  # under accelerate's debug_launcher every process is
        with contextlib.suppress(AlreadyOwned):  # another job's or rank's: share its cores, don't hand them out twice
            chosen = scheduler_class(config, **options).start_in_thread()
    state.wait_for_everyone()
    return chosen if chosen is not None else SchedulerClient().expect(config)
