"""The rewards in TRL's trainer, on its command line's paths, and through the scheduler."""

import asyncio
import importlib
import os

import pytest

from mimo_hf.rewards import CodeReward
from mimo_hf.scheduler import ActionScheduler, SchedulerClient, SchedulerConfig
from mimo_hf.scheduler.sharing.owner import ADDRESS_VARIABLE, LOCK_VARIABLE

from ..conftest import make_tokenizer

RIGHT = "```python\nprint(int(input()) ** 2)\n```"
WRONG = RIGHT.replace("**", "+")
TESTS = [{"input": "3", "output": "9"}, {"input": "2", "output": "4"}]
NAMES = [
    "math_verify_reward",
    "test_difficulty_code_reward",
    "soft_code_reward",
    "vanilla_code_reward",
    "judge_reward",
    "domain_reward",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_is_found_by_its_dotted_path_under_its_own_name(name):
    from trl.trainer.utils import get_callable_name, is_async_callable

    module, _, attribute = f"mimo_hf.rewards.{name}".rpartition(".")
    reward = getattr(importlib.import_module(module), attribute)
    assert get_callable_name(reward) == name
    assert is_async_callable(reward) == (name != "judge_reward")


def test_grpo_trains_on_all_domains_at_once(tmp_path):
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    import torch
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from mimo_hf.rewards import domain_reward, judge_reward

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, eos_token_id=256, pad_token_id=256, bos_token_id=None,
    )  # fmt: skip
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    rows = [
        {"prompt": "1+1", "domain": "math", "solution": "2", "tests": None, "label": 1},
        {"prompt": "square", "domain": "code", "solution": None, "tests": TESTS, "label": 0},
        {"prompt": "right?", "domain": "judge", "solution": None, "tests": None, "label": 1},
    ]
    arguments = GRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], num_generations=2, max_steps=1, per_device_train_batch_size=6,
        max_completion_length=4, logging_steps=1, save_strategy="no", seed=0, gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=Qwen2ForCausalLM(config), args=arguments, processing_class=tokenizer, train_dataset=Dataset.from_list(rows),
        reward_funcs=[domain_reward, judge_reward],
    )  # fmt: skip
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["rewards/domain_reward/mean"] == 0
    assert log["rewards/judge_reward/mean"] == 0
    for name in ("judge/accuracy", "reward/no_code", "reward/infra_fail", "reward/gold_unparsable", "reward/errors"):
        assert name in log


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path / "lock"))
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    with ActionScheduler(SchedulerConfig(cpu_cores=2, cpu_enforce="count", kill_grace_s=0.1)) as running:
        yield running


@pytest.mark.parametrize("through_a_client", [False, True])
def test_code_rewards_run_through_the_scheduler(scheduler, any_sandbox, through_a_client):
    from mimo_hf.scheduler.trl import scheduled_reward

    client = SchedulerClient(scheduler.address) if through_a_client else scheduler
    reward = scheduled_reward(CodeReward("strict", any_sandbox, keep_warm=False), client, timeout_s=60)
    assert reward.__name__ == "test_difficulty_code_reward"
    found = asyncio.run(reward(prompts=["p"] * 3, completions=[RIGHT, WRONG, "none"], tests=[TESTS] * 3))
    assert found == [1.0, 0.0, 0.0]
    assert scheduler.stats()["actions"] == 3


def test_a_reward_that_keeps_nothing_warm_leaves_the_schedulers_worker_alive(scheduler, any_sandbox):
    """A worker that an action leaves processes in is ended, and with it what is warm."""
    from mimo_hf.scheduler.trl import scheduled_reward

    reward = scheduled_reward(CodeReward("strict", any_sandbox, keep_warm=False), scheduler, timeout_s=60)
    workers = sorted(scheduler.executor.workers())
    for _ in range(2):
        assert asyncio.run(reward(prompts=["p"], completions=[RIGHT], tests=[TESTS])) == [1.0]
    assert sorted(scheduler.executor.workers()) == workers
    assert os.getpid() not in workers


def test_the_dotted_reward_runs_through_the_scheduler_as_it_is(scheduler):
    from mimo_hf.rewards import test_difficulty_code_reward as reward
    from mimo_hf.scheduler.trl import scheduled_reward

    scheduled = scheduled_reward(reward, scheduler, timeout_s=60)
    assert asyncio.run(scheduled(prompts=["p"], completions=[RIGHT], tests=[TESTS])) == [1.0]
