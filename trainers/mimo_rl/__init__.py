"""MiMo's reinforcement learning (arXiv 2505.07608): GRPO with dynamic sampling and an easy pool."""

from typing import TYPE_CHECKING

from ...lazy import lazy_names

if TYPE_CHECKING:
    from .mimo_rl_config import MiMoRLConfig
    from .mimo_rl_trainer import DynamicSamplingGRPOTrainer

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "mimo_rl_config": "MiMoRLConfig",
        "mimo_rl_trainer": "DynamicSamplingGRPOTrainer",
    },
)

__all__ = ["DynamicSamplingGRPOTrainer", "MiMoRLConfig"]
