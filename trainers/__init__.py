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

# Names that are looked for here and live elsewhere.
_ELSEWHERE = {
    "trl": "GRPOConfig GRPOTrainer SFTConfig SFTTrainer TrlParser",
    "mimo_hf": "HySparseForCausalLM MiMoForCausalLM MiMoV2FlashForCausalLM RouterBiasUpdateCallback register",
    "mimo_hf.data": "build_judge_set",
    "mimo_hf.rewards": (
        "CodeReward MathReward Sandbox by_domain domain_reward grade_tests judge_prompt judge_reward math_verify_reward pass_rates "
        "passed_tests soft_code_reward test_difficulty_code_reward vanilla_code_reward"
    ),
    "mimo_hf.trainers.engine_rollout": "Generated GenerateFn",
    "mimo_hf.trainers.judge_rlvr": "JudgeRLVRPipelineConfig run_judge_rlvr",
    "mimo_hf.trainers.judge_rlvr_trainer": "hand_over judge_skill mix_tasks",
    "mimo_hf.trainers.mimo_rl_trainer": "last_whole_checkpoint",
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
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    for home, names in _ELSEWHERE.items():
        if name in names.split():
            # Of an AttributeError, `from mimo_hf.trainers import ...` would not print the text.
            raise ImportError(f"{name} is not in {__name__}: from {home} import {name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


__all__ = [
    "DynamicSamplingGRPOTrainer",
    "JudgeRLVRConfig",
    "JudgeRLVRTrainer",
    "MiMoRLConfig",
    "PromptSampler",
    "SeamlessRollout",
    "sample_responses",
]
