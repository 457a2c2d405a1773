"""Batches from an asynchronous engine: what is trained on, in which order, resumed, and what is refused."""

import asyncio
import random
import re

import pytest
import torch

from mimo_hf.trainers.rollout.seamless import RolloutError

OPTIONS = {"dynamic_sampling": True, "per_device_train_batch_size": 16, "max_steps": 4, "easy_pool_alpha": 0.0}


class Engine:
    """Completions that depend on the prompt alone, after random waits."""

    def __init__(self, tokenizer, seed=0):
        self.tokenizer, self.random = tokenizer, random.Random(seed)
        self.started, self.running, self.peak, self.cancelled = [], 0, 0, 0

    async def __call__(self, prompt, num_generations):
        self.started.append(prompt)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await asyncio.sleep(self.random.random() / 100)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        own = random.Random(prompt)
        completions = [[*own.choices(range(3, 12), k=own.randint(1, 4)), 1] for _ in range(num_generations)]
        return {"prompt_ids": self.tokenizer(prompt).input_ids, "completion_ids": completions, "logprobs": None}


@pytest.fixture
def engine(tokenizer):
    return Engine(tokenizer)


def prompts_of(trainer, batch):
    texts = trainer.processing_class.batch_decode(batch["prompt_ids"], skip_special_tokens=True)
    return texts[:: trainer.num_generations]


def test_a_batch_has_the_first_informative_problems_of_the_order(make_trainer, engine, metric, generated_batches):
    trainer = make_trainer(("mixed", "wrong", "right"), **OPTIONS, generate_fn=engine)
    order = make_trainer(("mixed",), **OPTIONS).sampler.draw(400)
    rows = trainer.train_dataset
    wanted = [" ".join(rows[index]["prompt"].split()) for index in order if rows[index]["kind"] == "mixed"]
    batches = generated_batches(trainer)
    assert [prompt for batch in batches for prompt in prompts_of(trainer, batch)] == wanted[:16]
    for batch in batches:
        assert (batch["advantages"].view(4, 4).abs().amax(1) > 0.1).all()
        assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
    assert metric(trainer, "sampling/effective_batch") == [1.0] * 4
    assert 1 < engine.peak <= 8
    assert engine.running == 0


def test_completions_are_those_of_the_engine_and_rewards_are_of_them(make_trainer, engine, generated_batches):
    def longer_is_better(completions, **columns):
        return [float(len(completion.split())) for completion in completions]

    trainer = make_trainer(("mixed",), longer_is_better, **OPTIONS, generate_fn=engine)
    for batch in generated_batches(trainer):
        for prompt, ids, mask, advantages in zip(
            prompts_of(trainer, batch),
            batch["completion_ids"].view(4, 4, -1),
            batch["completion_mask"].view(4, 4, -1),
            batch["advantages"].view(4, 4),
            strict=True,
        ):
            made = asyncio.run(engine("solve " * prompt.count("solve") + prompt.replace("solve ", ""), 4))
            rows = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
            assert rows == made["completion_ids"]
            rewards = torch.tensor([len(row) - 1.0 for row in rows])
            torch.testing.assert_close(advantages, (rewards - rewards.mean()) / (rewards.std() + 1e-4))


def test_a_resumed_training_ends_with_the_same_weights(make_trainer, tokenizer, weights, assert_same_weights, metric):
    options = {**OPTIONS, "save_strategy": "steps", "save_steps": 2, "easy_pool_alpha": 0.3}
    kinds = ("mixed", "right", "wrong")
    undisturbed = make_trainer(kinds, **options, generate_fn=Engine(tokenizer, seed=1))
    undisturbed.train()
    resumed = make_trainer(kinds, **options, generate_fn=Engine(tokenizer, seed=2))
    resumed.train(resume_from_checkpoint=str(resumed.args.output_dir) + "/checkpoint-2")
    assert_same_weights(weights(undisturbed), weights(resumed))
    assert undisturbed.sampler.draw(100) == resumed.sampler.draw(100)
    assert undisturbed.sampler.pool_size > 0


def test_equal_rewards_for_ever_end_the_training(make_trainer, engine, metric):
    trainer = make_trainer(("wrong",), **OPTIONS, max_sampling_rounds=2, generate_fn=engine)
    trainer.train()
    assert trainer.state.global_step == 1
    assert len(engine.started) == 8
    assert metric(trainer, "sampling/frac_all_wrong") == [1.0]
    with pytest.raises(RuntimeError, match="8 all wrong"):
        make_trainer(("wrong",), **OPTIONS, max_sampling_rounds=2, on_exhausted="raise", generate_fn=engine).train()


def test_a_short_batch_is_filled_with_groups_of_no_advantage(
    make_trainer, engine, problems, metric, generated_batches
):
    dataset = problems(["mixed", "wrong", "wrong", "half"], 8)
    trainer = make_trainer(dataset, **OPTIONS, max_sampling_rounds=1, generate_fn=engine)
    for batch, share in zip(generated_batches(trainer), metric(trainer, "sampling/effective_batch"), strict=True):
        assert ((batch["advantages"].view(4, 4) != 0).all(1).float().mean()) == share < 1


def test_an_evaluation_uses_the_engine_too(make_trainer, engine, problems):
    trainer = make_trainer(
        ("mixed",), **{**OPTIONS, "max_steps": 1}, generate_fn=engine, eval_dataset=problems(["right"], 4),
        per_device_eval_batch_size=8, num_generations_eval=2,
    )  # fmt: skip
    trainer.train()
    before = len(engine.started)
    assert trainer.evaluate()["eval_reward"] == 1.0
    assert len(engine.started) == before + 4


def test_an_engine_that_fails_is_reported_with_its_prompt(make_trainer, tokenizer):
    async def broken(prompt, num_generations):
        raise ConnectionError("no server")

    with pytest.raises(RolloutError, match=r"generate_fn.* raised ConnectionError"):
        make_trainer(("mixed",), **OPTIONS, generate_fn=broken).train()

    async def short(prompt, num_generations):
        return {"prompt_ids": [3], "completion_ids": [[3, 1]]}

    with pytest.raises(RolloutError, match="4 lists in `completion_ids`"):
        make_trainer(("mixed",), **OPTIONS, generate_fn=short).train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic_sampling": False}, "`dynamic_sampling` must be True"),
        ({"carry_surplus": True}, "`carry_surplus` must be False"),
        ({"rollout_func": print}, "together with `rollout_func`"),
    ],
)
def test_what_does_not_go_with_an_engine_is_refused(make_trainer, engine, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_trainer(("mixed",), **{**OPTIONS, **options}, generate_fn=engine)
