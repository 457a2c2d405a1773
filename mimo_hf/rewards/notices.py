"""What is said once in a run, as plain text: by one process of a machine, however many are started."""

import logging
import os

logger = logging.getLogger("mimo_hf.rewards")
_said: set[str] = set()


def warn_once(message: str, key: str | None = None) -> None:
    """
    Args:
        key: of what is said; None: the message.
    """
    key = key or message
    if (
        os.environ.get("LOCAL_RANK", "0") != "0" or key in _said
    ):  # torchrun and accelerate number a machine's processes
        return
    _said.add(key)
    logger.warning("%s", message)
