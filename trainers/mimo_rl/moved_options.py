"""Options that MiMoRLConfig had in the version before, and where each is now. This goes with the next version."""

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

logger = logging.getLogger(__name__)

HOME = "mimo_hf.rewards.CodeRewardOptions"
DEFAULTS: dict[str, Any] = {
    "code_level_thresholds": [0.3, 0.7],
    "code_reward_scheme": "strict",
    "sandbox": "auto",
    "sandbox_memory_mb": 512,
    "sandbox_timeout_s": 6.0,
    "sandbox_workers": 2,
}


def where_moved(names: Iterable[str]) -> str:
    """A sentence for each of these options; empty if none has moved."""
    return " ".join(
        f"`{name}` is no option of the trainer any more: "
        + (
            "nothing read it, so leave it out; `mimo_hf.rewards.grade_tests` takes `thresholds`."
            if name == "code_level_thresholds"
            else f"it is the field `{name}` of {HOME}, which CodeReward.from_args takes."
        )
        for name in sorted(DEFAULTS.keys() & set(names))
    )


class MovedOptions:
    """Base of a configuration that had these options: they are refused with their new place, and left out of what was pickled."""

    def __new__(cls, *arguments: Any, **options: Any):
        if moved := where_moved(options):
            raise TypeError(f"{cls.__name__}: {moved}")
        return super().__new__(cls)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update((name, value) for name, value in state.items() if name not in DEFAULTS)
        chosen = [name for name, default in DEFAULTS.items() if state.get(name, default) != default]
        if chosen:
            logger.warning("%s that was saved by an earlier version: %s", type(self).__name__, where_moved(chosen))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            text = where_moved([name]) or f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(text)
