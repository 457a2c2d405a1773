"""Verifiable rewards for TRL's trainers: mathematics, programs by their tests, verdicts on solutions. See README.md."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

_HOME = {
    "CodeReward": "code_tests",
    "CodeRewardOptions": "code_options",
    "JUDGE_PROMPT_TEMPLATE": "judge",
    "Limits": "sandbox",
    "MathReward": "math_verifier",
    "Result": "sandbox",
    "Sandbox": "sandbox",
    "TestLevels": "difficulty",
    "assign_levels": "difficulty",
    "by_domain": "domains",
    "domain_reward": "domains",
    "grade_tests": "difficulty",
    "judge_prompt": "judge",
    "judge_reward": "judge",
    "level_scores": "difficulty",
    "math_verify_reward": "math_verifier",
    "parse_verdict": "judge",
    "pass_rates": "difficulty",
    "passed_tests": "code_tests",
    "score": "difficulty",
    "soft_code_reward": "code_tests",
    "test_difficulty_code_reward": "code_tests",
    "vanilla_code_reward": "code_tests",
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


__getattr__, __dir__ = lazy_names(__name__, _HOME)

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
