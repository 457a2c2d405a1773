"""
The roll-out worker of TRL's asynchronous GRPO, in its spawned process, with rewards and tools of a scheduler in this one.

The worker is TRL's own. In place of the vLLM server it asks, a web server of this process plays a model that calls a tool and
then answers; the trainer's own half, which sends weights to vLLM's GPUs, has no part in it.
"""

import asyncio
import json
import os
import threading
from pathlib import Path

import pytest

from mimo_hf.scheduler import ActionScheduler, SchedulerConfig
from mimo_hf.scheduler.trl import ScheduledTool, scheduled_reward

from ..conftest import make_tokenizer

SAMPLES = '''
import os


def spell(word: str) -> str:
    """
    Spells a word.

    Args:
        word: to be spelt.
    """
    return "-".join(word) + f" in {os.getpid()}"


def length(prompts, completions, **columns):
    return [float(len(completions[0][-1]["content"])) + os.getpid() / 1e9]
'''
CALL = '<tool_call>\n{"name": "spell", "arguments": {"word": "abc"}}\n</tool_call>'


class Model:
    """Answers `POST /v1/completions` with the tokens of a tool call, or of an answer where the tool has answered."""

    def __init__(self, tokenizer):
        self.tokenizer, self.heard = tokenizer, []

    def __enter__(self):
        self.loop, ready = asyncio.new_event_loop(), threading.Event()

        def serve():
            server = self.loop.run_until_complete(asyncio.start_server(self.answer, "127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            self.loop.run_forever()
            server.close()
            self.loop.close()

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        ready.wait()
        return self

    def __exit__(self, *error):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    async def answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length:")[2].split("\r\n")[0])
        prompt = self.tokenizer.decode(json.loads(await reader.readexactly(size))["prompt"])
        said = f"It is {prompt.count('a-b-c in')}." if "<tool_response>" in prompt else CALL
        self.heard.append(prompt)
        ids = [*self.tokenizer.encode(said), self.tokenizer.eos_token_id]
        body = json.dumps(
            {"choices": [{"token_ids": ids, "logprobs": {"token_logprobs": [-0.5] * len(ids)}}]}
        ).encode()
        kind = "Content-Type: application/json\r\nConnection: close"
        writer.write(f"HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@pytest.mark.slow
def test_the_rollout_worker_of_another_process_scores_and_calls_tools_through_the_scheduler(tmp_path, monkeypatch):
    import importlib

    import trl
    from accelerate import PartialState
    from datasets import Dataset
    from trl.experimental.async_grpo import async_rollout_worker

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    (tmp_path / "async_samples.py").write_text(SAMPLES)
    monkeypatch.syspath_prepend(tmp_path)
    PartialState()  # what TRL's loggers ask for
    samples = importlib.import_module("async_samples")
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    template = Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    monkeypatch.setattr(async_rollout_worker, "is_vllm_available", lambda: True)

    with (
        ActionScheduler(SchedulerConfig(cpu_cores=2, cpu_enforce="count")) as scheduler,
        Model(tokenizer) as model,
    ):
        client = scheduler.client()
        worker = async_rollout_worker.AsyncRolloutWorker(
            model_name="m", dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": "Spell abc."}]]}),
            reward_funcs=[scheduled_reward(samples.length, client)], tools=[ScheduledTool(samples.spell, client)],
            processing_class=tokenizer, eos_token_ids=[tokenizer.eos_token_id], num_generations=2,
            max_inflight_tasks=2, vllm_server_url=model.url, max_tokens=200, queue_maxsize=4,
        )  # fmt: skip
        try:
            worker.start()
            child = worker._process.pid
            found = [worker.rollout_buffer.get(timeout=60) for _ in range(2)]
            worker.check_health(30)
        finally:
            if worker._process.is_alive():  # with a dead one, its event waits for ever
                worker.stop()
        outcomes = scheduler.stats()["outcomes"]
    assert child != os.getpid()
    for sample in found:
        said, heard, answer = sample.completion
        assert said["tool_calls"][0]["function"]["name"] == "spell"
        assert heard["content"].startswith("a-b-c in ")
        ran_in = int(heard["content"].split()[-1])
        assert ran_in not in (child, os.getpid())
        assert answer["content"] == "It is 1."
        assert sample.metrics["rewards/length"] == pytest.approx(len("It is 1."), abs=0.01)
        assert sample.metrics["tools/failure_frequency"] == 0
    assert outcomes["done"] >= 4
    assert set(outcomes) <= {"done", "cancelled"}  # the worker may have begun the next ones
