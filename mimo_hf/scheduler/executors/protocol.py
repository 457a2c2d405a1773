"""What an executor is."""

from collections.abc import Callable
from typing import Any, Protocol

from ..core.book import Lease, Node


class Executor(Protocol):
    """
    Where actions run: `LocalExecutor` on this machine, `RayExecutor` on a cluster, or one of yours.

    A scheduler calls `start` once on its loop, then `nodes`, `run` for each action whose turn has come, and `close` at its end.
    """

    def nodes(self) -> list[Node]:
        """The machines, with what each has to hand out."""
        ...

    async def start(self, node_lost: Callable[[str], None], node_joined: Callable[[Node], None]) -> None:
        """
        Args:
            node_lost: to be called on the loop with the name of a node that died; `run` of its actions raises by itself.
            node_joined: to be called on the loop with a node that came later.
        """
        ...

    async def run(self, lease: Lease, payload: bytes, main: Any, timeout_s: float | None) -> tuple[bool, Any, float]:
        """
        Runs one action on the units of its lease; when it returns, nothing that the action has started runs any more.

        Args:
            payload: the pickled callable or `Command`.
            main: what `multiprocessing.spawn` needs to find functions of the caller's script; None: nothing.
            timeout_s: of the action, from its start; None: as long as it takes.

        Returns:
            (True, its value, seconds) or (False, its exception, seconds).

        Raises:
            ActionTimeout: it ran too long.
            NotStarted: it certainly did not start.
            WorkerLost: its process died, and it may have started.
        """
        ...

    async def close(self) -> None:
        """Ends everything, running actions included."""
        ...
