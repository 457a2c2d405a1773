"""JudgeRLVR (arXiv 2601.08468): a policy learns to judge solutions, then to write them."""

from typing import TYPE_CHECKING

from ...lazy import lazy_names
from ...moved import forward

if TYPE_CHECKING:
    from .judge_rlvr_config import JudgeRLVRConfig
    from .judge_rlvr_trainer import JudgeRLVRTrainer, hand_over, judge_skill, mix_tasks
    from .options import JudgeRLVRPipelineConfig
    from .pipeline import run_judge_rlvr

_load, __dir__ = lazy_names(
    __name__,
    {
        "judge_rlvr_config": "JudgeRLVRConfig",
        "judge_rlvr_trainer": "JudgeRLVRTrainer hand_over judge_skill mix_tasks",
        "options": "JudgeRLVRPipelineConfig",
        "pipeline": "run_judge_rlvr",
    },
)
_load_earlier = forward(__name__, f"{__name__}.command")  # what the module of this name held


def __getattr__(name: str):
    return (_load_earlier if name == "main" else _load)(name)


__all__ = [
    "JudgeRLVRConfig",
    "JudgeRLVRPipelineConfig",
    "JudgeRLVRTrainer",
    "hand_over",
    "judge_skill",
    "mix_tasks",
    "run_judge_rlvr",
]
