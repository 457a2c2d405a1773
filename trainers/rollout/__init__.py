"""Where a trainer's batches come from: which prompt is next, an asynchronous engine's groups, and which of them carry a gradient."""

from typing import TYPE_CHECKING

from ...lazy import lazy_names

if TYPE_CHECKING:
    from .engine_rollout import Generated, GenerateFn
    from .prompt_sampler import PromptSampler
    from .seamless import RolloutError, RolloutResult, RolloutStats, RolloutTask, SeamlessRollout

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "engine_rollout": "GenerateFn Generated",
        "prompt_sampler": "PromptSampler",
        "seamless": "RolloutError RolloutResult RolloutStats RolloutTask SeamlessRollout",
    },
)

__all__ = [
    "GenerateFn",
    "Generated",
    "PromptSampler",
    "RolloutError",
    "RolloutResult",
    "RolloutStats",
    "RolloutTask",
    "SeamlessRollout",
]
