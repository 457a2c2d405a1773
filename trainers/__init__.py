"""Trainers for MiMo's post-training methods, as subclasses of TRL's.

One method is two files, `<name>_config.py` and `<name>_trainer.py`, with a script of the same name in `examples/`.
A trainer takes any causal language model and never imports `mimo_hf.modeling`. Names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if __name__ != "mimo_hf.trainers":
    raise ImportError(f"{__name__} is called mimo_hf.trainers: under two names there would be two of each class.")

_HOME = {
    "DynamicSamplingGRPOTrainer": "mimo_rl_trainer",
    "JudgeRLVRConfig": "judge_rlvr_config",
    "JudgeRLVRTrainer": "judge_rlvr_trainer",
    "MiMoRLConfig": "mimo_rl_config",
    "PromptSampler": "prompt_sampler",
    "SeamlessRollout": "seamless",
    "sample_responses": "sampling",
}

if TYPE_CHECKING:
    from .judge_rlvr_config import JudgeRLVRConfig
    from .judge_rlvr_trainer import JudgeRLVRTrainer
    from .mimo_rl_config import MiMoRLConfig
    from .mimo_rl_trainer import DynamicSamplingGRPOTrainer
    from .prompt_sampler import PromptSampler
    from .sampling import sample_responses
    from .seamless import SeamlessRollout


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "DynamicSamplingGRPOTrainer",
    "JudgeRLVRConfig",
    "JudgeRLVRTrainer",
    "MiMoRLConfig",
    "PromptSampler",
    "SeamlessRollout",
    "sample_responses",
]
