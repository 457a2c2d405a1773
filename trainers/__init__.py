"""Trainers for MiMo's post-training methods, as subclasses of TRL's.

One method is a folder with `<name>_config.py`, `<name>_trainer.py` and what only it uses, and a script `examples/<name>.py`; what all
methods share is beside the folders. A trainer takes any causal language model and never imports `mimo_hf.modeling`. Names load on
first use.
"""

from typing import TYPE_CHECKING

if __name__ != "mimo_hf.trainers":
    raise ImportError(f"{__name__} is called mimo_hf.trainers: under two names there would be two of each class.")

from ..lazy import lazy_names
from ..moved import moved

_NAMES = {
    "judge_rlvr.judge_rlvr_config": "JudgeRLVRConfig",
    "judge_rlvr.judge_rlvr_trainer": "JudgeRLVRTrainer",
    "mimo_rl.mimo_rl_config": "MiMoRLConfig",
    "mimo_rl.mimo_rl_trainer": "DynamicSamplingGRPOTrainer",
    "mopd.mopd_config": "MOPDConfig",
    "mopd.mopd_trainer": "MOPDTrainer",
    "mopd.teachers": "LoraTeacher",
    "rollout.prompt_sampler": "PromptSampler",
    "rollout.seamless": "SeamlessRollout",
    "sampling": "sample_responses",
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
    "mimo_hf.trainers.checkpoints": "last_whole_checkpoint",
    "mimo_hf.trainers.judge_rlvr": "JudgeRLVRPipelineConfig hand_over judge_skill mix_tasks run_judge_rlvr",
    "mimo_hf.trainers.rollout": "Generated GenerateFn",
}

if TYPE_CHECKING:
    from .judge_rlvr.judge_rlvr_config import JudgeRLVRConfig
    from .judge_rlvr.judge_rlvr_trainer import JudgeRLVRTrainer
    from .mimo_rl.mimo_rl_config import MiMoRLConfig
    from .mimo_rl.mimo_rl_trainer import DynamicSamplingGRPOTrainer
    from .mopd.mopd_config import MOPDConfig
    from .mopd.mopd_trainer import MOPDTrainer
    from .mopd.teachers import LoraTeacher
    from .rollout.prompt_sampler import PromptSampler
    from .rollout.seamless import SeamlessRollout
    from .sampling import sample_responses

# Checkpoints (training_args.bin), scripts and notebooks of the last release name these.
moved(
    __name__,
    {
        "engine_rollout": "rollout.engine_rollout", "group_batch": "rollout.group_batch", "prompt_sampler": "rollout.prompt_sampler",
        "seamless": "rollout.seamless", "mimo_rl_config": "mimo_rl.mimo_rl_config", "mimo_rl_trainer": "mimo_rl.mimo_rl_trainer",
        "sampling_rounds": "mimo_rl.sampling_rounds", "judge_rlvr_config": "judge_rlvr.judge_rlvr_config",
        "judge_rlvr.command_line": "judge_rlvr.command", "judge_rlvr_options": "judge_rlvr.options", "judge_rlvr_pipeline": "judge_rlvr.pipeline",
        "judge_rlvr_problems": "judge_rlvr.problems", "judge_rlvr_trainer": "judge_rlvr.judge_rlvr_trainer",
        "step_folder": "judge_rlvr.step_folder",
    },
)  # fmt: skip

_load, __dir__ = lazy_names(__name__, _NAMES)


def __getattr__(name: str):
    for home, names in _ELSEWHERE.items():
        if name in names.split():
            # Of an AttributeError, `from mimo_hf.trainers import ...` would not print the text.
            raise ImportError(f"{name} is not in {__name__}: from {home} import {name}")
    return _load(name)


__all__ = [
    "DynamicSamplingGRPOTrainer",
    "JudgeRLVRConfig",
    "JudgeRLVRTrainer",
    "LoraTeacher",
    "MOPDConfig",
    "MOPDTrainer",
    "MiMoRLConfig",
    "PromptSampler",
    "SeamlessRollout",
    "sample_responses",
]
