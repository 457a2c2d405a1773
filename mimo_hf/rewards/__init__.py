"""Verifiable rewards for TRL's trainers: mathematics, programs by their tests, verdicts on solutions. See README.md."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

_NAMES = {
    "code_options": "CodeRewardOptions",
    "code_tests": "CodeReward passed_tests soft_code_reward test_difficulty_code_reward vanilla_code_reward",
    "difficulty": "TestLevels assign_levels grade_tests level_scores pass_rates score",
    "domains": "by_domain domain_reward",
    "judge": "JUDGE_PROMPT_TEMPLATE judge_prompt judge_reward parse_verdict",
    "math_verifier": "MathReward math_verify_reward",
    "sandbox": "Limits Result Sandbox",
}

if TYPE_CHECKING:
    from .code_options import CodeRewardOptions
    from .code_tests import (
        CodeReward,
        passed_tests,
        soft_code_reward,
        test_difficulty_code_reward,
        vanilla_code_reward,
    )
    from .difficulty import TestLevels, assign_levels, grade_tests, level_scores, pass_rates, score
    from .domains import by_domain, domain_reward
    from .judge import JUDGE_PROMPT_TEMPLATE, judge_prompt, judge_reward, parse_verdict
    from .math_verifier import MathReward, math_verify_reward
    from .sandbox import Limits, Result, Sandbox


__getattr__, __dir__ = lazy_names(__name__, _NAMES)

__all__ = [
    "JUDGE_PROMPT_TEMPLATE",
    "CodeReward",
    "CodeRewardOptions",
    "Limits",
    "MathReward",
    "Result",
    "Sandbox",
    "TestLevels",
    "assign_levels",
    "by_domain",
    "domain_reward",
    "grade_tests",
    "judge_prompt",
    "judge_reward",
    "level_scores",
    "math_verify_reward",
    "parse_verdict",
    "pass_rates",
    "passed_tests",
    "score",
    "soft_code_reward",
    "test_difficulty_code_reward",
    "vanilla_code_reward",
]
