"""TRL's trainers with the scheduler behind rewards, tools, environments and roll-outs."""

import copy
import math
import pickle
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mimo_hf.scheduler import Action, ActionScheduler, ElasticRange, SchedulerConfig
from mimo_hf.scheduler.trl import (
    ScheduledEnvironment,
    ScheduledGRPOTrainer,
    ScheduledTool,
    make_rollout_func,
    scheduled_reward,
)

from ..conftest import make_tokenizer
from .conftest import call

SAMPLES = '''
import os
import time


def letters(prompts, completions, answer, **columns):
    """Works on batches, as TRL's reward functions do."""
    return [sum(map(ord, completion)) % 7 + 0.5 * a for completion, a in zip(completions, answer)]


def picky(prompts, completions, **columns):
    if "b" in completions[0]:
        raise ValueError("no b")
    return [1.0]


def slow(prompts, completions, **columns):
    time.sleep(0.25)
    return [1.0] * len(prompts)


def where(city: str) -> str:
    """
    Finds a city.

    Args:
        city: its name.
    """
    time.sleep(0.2)
    if city == "Atlantis":
        raise LookupError("lost")
    return f"{city} in {os.getpid()}"


def spell(word: str) -> str:
    """
    Spells a word.

    Args:
        word: to be spelt.
    """
    time.sleep(0.1)
    return "-".join(word)


def step(prompt, completion):
    if "stop" in prompt:
        return None
    if "fail" in prompt:
        raise RuntimeError("broken world")
    return f"<{len(completion)}>"
'''


@pytest.fixture
def samples(tmp_path, monkeypatch):
    (tmp_path / "scheduler_samples.py").write_text(SAMPLES)
    monkeypatch.syspath_prepend(tmp_path)
    import importlib
    import sys

    sys.modules.pop("scheduler_samples", None)
    return importlib.import_module("scheduler_samples")


@pytest.fixture
def scheduler(samples, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    with ActionScheduler(SchedulerConfig(cpu_cores=4, cpu_enforce="count", kill_grace_s=0.1)) as running:
        yield running


def tiny_model():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, eos_token_id=256, pad_token_id=256, bos_token_id=None,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def make_trainer(tmp_path, kind, prompts, chat_template=None, **options):
    from datasets import Dataset
    from trl import GRPOConfig

    tokenizer = make_tokenizer()
    tokenizer.chat_template = chat_template
    tokenizer.pad_token = tokenizer.eos_token
    config = GRPOConfig(
        output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[], num_generations=4, max_steps=1,
        per_device_train_batch_size=4, max_completion_length=12, logging_steps=1, save_strategy="no", seed=0,
    )  # fmt: skip
    rows = {"prompt": prompts, "answer": list(range(len(prompts)))}
    return kind(
        model=tiny_model(), args=config, processing_class=tokenizer, train_dataset=Dataset.from_dict(rows), **options
    )


def test_grpo_trains_on_the_same_rewards_as_with_the_plain_function(tmp_path, samples, scheduler):
    from trl import GRPOTrainer

    logged = []
    for reward in (samples.letters, scheduled_reward(samples.letters, scheduler, {"cpu": ElasticRange(1, 2)})):
        trainer = make_trainer(tmp_path, GRPOTrainer, ["tell me", "more of it"], reward_funcs=[reward])
        trainer.train()
        logged.append(trainer.state.log_history[0])
    plain, scheduled = logged
    assert plain["rewards/letters/std"] > 0
    for name in ("reward", "rewards/letters/mean", "rewards/letters/std", "loss"):
        assert scheduled[name] == pytest.approx(plain[name], abs=1e-6)
    assert scheduled["letters/act_mean"] > 0
    assert scheduled["letters/errors"] == 0
    assert 0 <= scheduled["letters/overhead_frac"] <= 1
    assert scheduler.stats()["outcomes"] == {"done": 4}


def score(reward, completions, **columns):
    import asyncio

    return asyncio.run(reward(prompts=["p"] * len(completions), completions=completions, **columns))


def test_an_exception_a_timeout_and_a_loss_give_none(samples, scheduler):
    assert score(scheduled_reward(samples.picky, scheduler), ["a", "b", "c"]) == [1.0, None, 1.0]
    assert score(scheduled_reward(samples.picky, scheduler, on_error=-1.0), ["b"]) == [-1.0]
    assert score(scheduled_reward(samples.slow, scheduler, timeout_s=0.05), ["a"]) == [None]


def test_samples_are_scored_at_once(samples, scheduler):
    begin = time.perf_counter()
    assert score(scheduled_reward(samples.slow, scheduler), ["a"] * 8) == [1.0] * 8
    took = time.perf_counter() - begin
    assert 0.5 <= took < 2  # eight of 0.25 s on four cores; one after another they take 2 s


def test_rewards_and_tools_pickle_with_a_client(samples, scheduler):
    client = scheduler.client()
    reward, tool = pickle.loads(
        pickle.dumps((scheduled_reward(samples.letters, client), ScheduledTool(samples.spell, client)))
    )
    assert score(reward, ["aei"], answer=[2]) == [(97 + 101 + 105) % 7 + 1.0]
    assert tool(word="abc") == "a-b-c"


def noting(notes, work, *args):
    notes.append(work(*args))
    return notes[-1]


def test_grpo_shows_its_model_what_tools_there_are(tmp_path, samples, scheduler, monkeypatch):
    import trl

    shown = []
    template = (Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja").read_text(encoding="utf-8")
    for tool in (samples.where, ScheduledTool(samples.where, scheduler)):
        trainer = make_trainer(
            tmp_path,
            ScheduledGRPOTrainer,
            [[{"role": "user", "content": "?"}]],
            chat_template=template,
            reward_funcs=[lambda completions, **_: [1.0] * len(completions)],
            tools=[tool],
        )
        tokenize = trainer._tokenize_prompts
        monkeypatch.setattr(trainer, "_tokenize_prompts", partial(noting, shown, tokenize))
        trainer.train()
    plain, scheduled = shown
    assert plain == scheduled
    assert "Finds a city." in make_tokenizer().decode(plain[0][0])


def test_a_tool_keeps_the_schema_of_its_function(samples, scheduler):
    from transformers.utils import get_json_schema

    tool = ScheduledTool(samples.where, scheduler)
    assert get_json_schema(tool) == get_json_schema(samples.where)


class Loop:
    """What TRL's tool loop asks of its trainer, with a scripted model: each sample makes the turns it is given."""

    def make(self, kind, script, tools, async_tools=(), budget=400):
        trainer = kind.__new__(kind)
        self.script = [list(turns) for turns in script]
        count = len(script)
        trainer.max_tool_calling_iterations = 5
        trainer.max_completion_length = budget
        trainer.use_vllm = trainer._is_vlm = False
        trainer.model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=10_000))
        trainer.tools, trainer.environment_factories, trainer._tokenizer = [*tools, *async_tools], None, None
        trainer._sync_tool_dicts = [{tool.__name__: tool for tool in tools}] * count
        trainer._async_tool_dicts = [{tool.__name__: tool for tool in async_tools}] * count
        trainer._get_tool_suffix_ids = lambda messages: [ord(c) for m in messages for c in m["content"]][:30]
        trainer._generate_single_turn = self.generate
        self.turn = [0] * count
        return trainer

    def run(self, trainer, monkeypatch):
        """Token i * 1000 + turn stands for what sample i says at that turn."""
        from trl.trainer import grpo_trainer

        monkeypatch.setattr(
            grpo_trainer,
            "parse_response",
            lambda tokenizer, ids, **_: copy.deepcopy(self.say(ids[0] // 1000, ids[0] % 1000)),
        )
        count = len(self.script)
        prompts = [[{"role": "user", "content": "?"}] for _ in range(count)]
        completions = [[copy.deepcopy(self.say(i, 0))] for i in range(count)]
        ids = [[i * 1000] for i in range(count)]
        return trainer._tool_call_loop(prompts, [[7]] * count, ids, completions, [[0.5] for _ in ids], None, {})

    def say(self, index, turn):
        calls = self.script[index][turn] if turn < len(self.script[index]) else []
        message = {"role": "assistant", "content": f"{index}.{turn}"}
        return {**message, "tool_calls": calls} if calls else message

    def generate(self, ids, images, fields, num_generations, **_):
        new = []
        for row in ids:
            own = [token for token in row[1:] if token % 1000 < 10]  # letters are above
            new.append([own[-1] + 1])
        return new, [[0.25] for _ in new]


def tool_call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


SCRIPT = [
    [[tool_call("spell", word="abc"), tool_call("spell", word="de")], [tool_call("spell", word="x")]],
    [[]],
    [[tool_call("missing", a=1), tool_call("spell", word="yes"), {"type": "retrieval", "name": "r"}]],
    [[tool_call("spell", wrong="a"), tool_call("spell", word="ok")], [], [tool_call("spell", word="never")]],
    [[tool_call("spell", word="w" * 40)], [tool_call("shout", word="hey"), tool_call("spell", word="zz")]],
    [
        [
            {"type": "function", "function": {"name": "spell", "arguments": "not a mapping"}},
            tool_call("spell", word="k"),
        ]
    ],
]


def test_the_tool_loop_gives_what_trls_gives(samples, scheduler, monkeypatch):
    from trl import GRPOTrainer

    def shout(word):
        return word.upper()

    results = []
    for kind, spell in ((GRPOTrainer, samples.spell), (ScheduledGRPOTrainer, ScheduledTool(samples.spell, scheduler))):
        loop = Loop()
        results.append(loop.run(loop.make(kind, SCRIPT, [spell, shout]), monkeypatch))
    expected, found = results
    mask, completions, ids, logprobs, calls, failures, _ = expected
    assert calls == 13
    assert failures == 4
    assert [message["content"] for message in completions[0] if message["role"] == "tool"] == ["a-b-c", "d-e", "x"]

    for mine, theirs in zip(found[1], completions, strict=True):
        assert [(m["role"], m["content"]) for m in mine] == [(m["role"], m["content"]) for m in theirs]
    assert found[0] == mask
    assert found[2] == ids
    assert found[3] == logprobs
    assert found[4:] == expected[4:]


def test_tool_calls_of_all_samples_run_at_once_and_dropped_samples_call_nothing(samples, scheduler, monkeypatch):
    script = [
        [[tool_call("where", city=city)], [tool_call("where", city=city)]] for city in ("A", "B", "C", "Atlantis")
    ]
    loop = Loop()
    trainer = loop.make(ScheduledGRPOTrainer, script, [ScheduledTool(samples.where, scheduler)])
    begin = time.perf_counter()
    *_, completions, _, _, calls, failures, _ = loop.run(trainer, monkeypatch)
    took = time.perf_counter() - begin
    assert (calls, failures) == (8, 2)
    assert took < 1.6  # eight calls of 0.2 s in two turns; one after another they take 1.6 s
    assert "lost" in completions[3][1]["content"]

    small = Loop()
    before = scheduler.stats()["actions"]
    trainer = small.make(ScheduledGRPOTrainer, script[:2], [ScheduledTool(samples.where, scheduler)], budget=3)
    *_, calls, _, _ = small.run(trainer, monkeypatch)
    assert calls == 2
    assert scheduler.stats()["actions"] - before == 2  # results too long for the budget: there is no second turn


def test_a_sample_whose_result_was_too_long_does_not_call_again(samples, scheduler, monkeypatch):
    again = [[tool_call("spell", word="x")], [tool_call("spell", word="y")], [tool_call("spell", word="z")]]
    loop = Loop()
    script = [[[tool_call("spell", word="w" * 20)]], again]
    trainer = loop.make(ScheduledGRPOTrainer, script, [ScheduledTool(samples.spell, scheduler)], budget=25)
    *_, completions, _, _, calls, failures, _ = loop.run(trainer, monkeypatch)
    assert [len(completion) for completion in completions] == [1, 7]
    assert (calls, failures) == (4, 0)
    assert scheduler.stats()["actions"] == 4


def test_async_tools_of_all_samples_run_at_once(samples, scheduler, monkeypatch):
    import asyncio

    inside, most, lock = 0, 0, threading.Lock()

    async def fetch(url):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        await asyncio.sleep(0.1)
        with lock:
            inside -= 1
        return url

    loop = Loop()
    trainer = loop.make(ScheduledGRPOTrainer, [[[tool_call("fetch", url=f"u{n}")]] for n in range(5)], [], [fetch])
    trainer.async_loop = scheduler.loop
    *_, completions, _, _, calls, failures, _ = loop.run(trainer, monkeypatch)
    assert (calls, failures, most) == (5, 0, 5)
    assert [completion[1]["content"] for completion in completions] == [f"u{n}" for n in range(5)]


class Shell(ScheduledEnvironment):
    def reset(self, **row):
        super().reset(**row)
        return "ready"

    async def word(self, word: str) -> str:
        """Spells."""
        from scheduler_samples import spell

        return await self._run(__import__("functools").partial(spell, word))


def test_an_environment_runs_its_tools_as_actions_of_its_trajectory(scheduler):
    import asyncio

    shell = Shell(scheduler, sticky=True)
    with pytest.raises(RuntimeError, match="reset"):
        asyncio.run(shell.word("a"))
    assert shell.reset(answer=1) == "ready"
    first = shell._trajectory
    assert asyncio.run(shell.word("ab")) == "a-b"
    hanging = scheduler.start(call("__import__('time').sleep(60)", trajectory=first, env=first))
    time.sleep(0.1)
    shell.reset()
    assert shell._trajectory != first
    with pytest.raises(CancelledError):
        hanging.result(10)
    assert scheduler.run_sync(Action("n", call("3").fn, {"cpu": 4})) == 3


def test_a_rollout_takes_turns_and_masks_what_the_environment_says(tmp_path, samples, scheduler, monkeypatch):
    rollout = make_rollout_func(samples.step, scheduler, max_turns=3)
    seen = {}

    def reward(prompts, completions, turns, rollout_error, **_):
        seen.update(turns=turns, errors=rollout_error)
        return [float(t) for t in turns]

    trainer = make_trainer(tmp_path, ScheduledGRPOTrainer, ["go on"] * 4, reward_funcs=[reward], rollout_func=rollout)
    trainer.max_completion_length = 64
    trainer.generation_config.max_new_tokens = 5
    output = rollout(["go on", "stop now", "fail"], trainer)
    tokenizer = trainer.processing_class
    assert output["turns"] == [3, 1, 1]
    assert output["rollout_error"] == [None, None, "broken world"]
    for ids, mask, logprobs in zip(output["completion_ids"], output["env_mask"], output["logprobs"], strict=True):
        assert len(ids) == len(mask) == len(logprobs)
    told = [token for token, own in zip(output["completion_ids"][0], output["env_mask"][0], strict=True) if not own]
    assert tokenizer.decode(told).startswith("<")
    assert 0 in output["env_mask"][0]
    assert 0 not in output["env_mask"][1]
    trainer.train()
    assert seen["turns"] == [3, 3, 3, 3]
    assert seen["errors"] == [None] * 4
    assert math.isfinite(trainer.state.log_history[0]["loss"])


@pytest.mark.parametrize("turns", [0, -1])
def test_turns_start_at_one(samples, scheduler, turns):
    with pytest.raises(ValueError, match="max_turns"):
        make_rollout_func(samples.step, scheduler, max_turns=turns)


def test_teachers_answer_with_the_log_probabilities_of_their_models():
    import asyncio

    from mimo_hf.scheduler.services.teachers import TeacherPool

    models = {}
    for seed in range(3):
        torch.manual_seed(seed)
        models[f"t{seed}"] = tiny_model().eval()
        for parameter in models[f"t{seed}"].parameters():
            parameter.data += 0.1 * seed
    ids = [torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)) for length in (5, 9, 7)]
    expected = {}
    with torch.no_grad():
        for name, model in models.items():
            for number, row in enumerate(ids):
                logits = model(row[None]).logits[0].double()
                expected[name, number] = torch.stack(
                    [logits[t].log_softmax(-1)[row[t + 1]] for t in range(len(row) - 1)]
                )

    async def work():
        config = SchedulerConfig(cpu_cores=1, cpu_enforce="count", gpu_bytes=200)
        async with ActionScheduler(config) as scheduler:
            pool = TeacherPool(
                scheduler, {n: lambda m=m: m for n, m in models.items()}, 100, "cpu", max_batch_tokens=64
            )
            keys = list(expected)
            found = await asyncio.gather(*(pool.logprobs(name, ids[number]) for name, number in keys))
            with pytest.raises(ValueError, match="must be one of t0, t1, t2"):
                await pool.logprobs("t9", ids[0])
            with pytest.raises(ValueError, match="at least two tokens"):
                await pool.logprobs("t0", ids[0][:1])
            with pytest.raises(ValueError, match="already"):
                scheduler.add_service("t0", None)
            return dict(zip(keys, found, strict=True)), scheduler.stats()["service_switches"]

    found, switches = asyncio.run(work())
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value, atol=1e-5, rtol=1e-5)
    assert switches >= 3
