"""
TRL's ways in: rewards, tools, environments and roll-outs whose work is done by the scheduler, all samples at once.

    reward = scheduled_reward(run_tests, scheduler, cost={"cpu": ElasticRange(1, 8)})
    trainer = ScheduledGRPOTrainer(..., reward_funcs=[reward], tools=[ScheduledTool(search, scheduler, {"search": 1})])
"""

import asyncio
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ..data.reward_columns import take_rows
from .core.types import Action, Command, ElasticRange

try:
    from transformers.utils import get_json_schema
    from trl import GRPOTrainer
except ImportError as error:
    raise ImportError("mimo_hf.scheduler.trl needs TRL: pip install 'mimo-hf[trl]'") from error

Cost = Mapping[str, int | float | ElasticRange]
_TRAJECTORIES = itertools.count()
NOT_COLUMNS = ("trainer_state", "log_extra", "log_metric", "environments")


class ScheduledReward:
    """See `scheduled_reward`. It pickles with a `SchedulerClient`."""

    def __init__(self, fn: Callable, scheduler: Any, cost: Cost, on_error: float | None, options: dict[str, Any]):
        self.fn, self.scheduler, self.cost, self.on_error, self.options = fn, scheduler, cost, on_error, options
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        log_metric = columns.get("log_metric")
        columns = {name: column for name, column in columns.items() if name not in NOT_COLUMNS and column is not None}
        before = await asyncio.to_thread(self.scheduler.stats) if log_metric else {}
        actions = []
        columns |= {"prompts": prompts, "completions": completions}
        for index, _ in enumerate(zip(prompts, completions, strict=True)):
            work = functools.partial(self.fn, **take_rows(columns, [index]))
            actions.append(Action(**{"kind": self.__name__, **self.options, "fn": work, "cost": self.cost}))
        results = await self.scheduler.map(actions, return_exceptions=True)
        if log_metric:
            for name, value in _difference(before, await asyncio.to_thread(self.scheduler.stats)).items():
                log_metric(f"{self.__name__}/{name}", value)
            log_metric(f"{self.__name__}/errors", float(sum(isinstance(r, BaseException) for r in results)))
        return [self._reward(result) for result in results]

    def _reward(self, result: Any) -> float | None:
        if isinstance(result, BaseException):
            return self.on_error
        if not hasattr(result, "__len__") or len(result) != 1:
            raise ValueError(f"`{self.__name__}` must return one value for one sample; got {result!r}.")
        return result[0]


def scheduled_reward(
    fn: Callable, scheduler: Any, cost: Cost | None = None, on_error: float | None = None, **options: Any
) -> ScheduledReward:
    """
    A TRL reward function whose samples are scored at once, one action each.

    Args:
        fn: an ordinary reward function, `fn(prompts, completions, **columns) -> list[float | None]`, of an importable module;
            it is called in a worker with lists of one sample, without `trainer_state`, `log_extra`, `log_metric` and
            `environments`.
        scheduler: an `ActionScheduler` or a `SchedulerClient`.
        cost: of one sample; None: one core.
        on_error: the reward where `fn` raises, times out or is lost; TRL leaves `None` out.
        options: of the `Action`s, such as `timeout_s`, `idempotent`, `est_s`, `kind`.
    """
    return ScheduledReward(fn, scheduler, {"cpu": 1} if cost is None else cost, on_error, options)


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """Means over what ended in between."""
    count = after["actions"] - before["actions"]
    if not count:
        return {}
    sums = {
        name: after[name] * after["actions"] - before[name] * before["actions"] for name in ("act_mean", "queue_mean")
    }
    overhead = after["overhead_frac"] * after["act_mean"] * after["actions"]
    overhead -= before["overhead_frac"] * before["act_mean"] * before["actions"]
    means = {name: total / count for name, total in sums.items()}
    return {**means, "overhead_frac": overhead / sums["act_mean"] if sums["act_mean"] > 0 else 0.0}


class ScheduledTool(dict):
    """
    A tool for TRL's trainers that runs as an action. Its name, signature and docstring are those of `fn`; it is the JSON schema
    of `fn`, too, since chat templates take functions or schemas and no other callables.

    Args:
        fn: a function of an importable module with type hints and a Google-style docstring, as TRL asks of tools.
        scheduler: an `ActionScheduler` or a `SchedulerClient`.
        cost: of one call; None: one core.
        options: of the `Action`s.
    """

    def __init__(self, fn: Callable, scheduler: Any, cost: Cost | None = None, **options: Any):
        super().__init__(get_json_schema(fn))
        self.fn, self.scheduler, self.options = fn, scheduler, options
        self.cost = {"cpu": 1} if cost is None else cost
        functools.update_wrapper(self, fn)

    def action(self, **arguments: Any) -> Action:
        work = functools.partial(self.fn, **arguments)
        return Action(**{"kind": self.fn.__name__, **self.options, "fn": work, "cost": self.cost})

    def __call__(self, **arguments: Any) -> Any:
        return self.scheduler.run_sync(self.action(**arguments))


class ScheduledEnvironment:
    """
    Base of environments for `environment_factory`. Public methods of a subclass are its tools; each passes its work to
    `_run`, which makes it an action of this roll-out's trajectory. Asynchronous tools of all samples run at once under
    `ScheduledGRPOTrainer`, those of one sample under any TRL trainer.

    Args:
        scheduler: an `ActionScheduler` or a `SchedulerClient`.
        cost: of an action; None: one core.
        sticky: keep all actions of a roll-out on one node, where its state is.
        options: of the `Action`s.
    """

    def __init__(self, scheduler: Any, cost: Cost | None = None, sticky: bool = False, **options: Any):
        self._scheduler, self._options, self._sticky = scheduler, options, sticky
        self._cost = {"cpu": 1} if cost is None else cost
        self._trajectory: str | None = None

    def reset(self, **row: Any) -> str | None:
        """Starts a new trajectory; what the last one held is given back. A subclass calls this first."""
        self._close()
        self._trajectory = f"{type(self).__name__}-{os.getpid()}-{next(_TRAJECTORIES)}"
        return None

    async def _run(self, fn: Callable | Command, cost: Cost | None = None, **options: Any) -> Any:
        """Runs `fn` (importable) or a `Command` as an action; its result or exception."""
        return await self._scheduler.run(self._action(fn, cost, options))

    def _run_sync(self, fn: Callable | Command, cost: Cost | None = None, **options: Any) -> Any:
        return self._scheduler.run_sync(self._action(fn, cost, options))

    def _action(self, fn: Callable | Command, cost: Cost | None, options: dict[str, Any]) -> Action:
        if self._trajectory is None:
            raise RuntimeError(f"{type(self).__name__}.reset() must be called (by a subclass, super().reset()) first.")
        home = {"trajectory": self._trajectory, "env": self._trajectory if self._sticky else None}
        return Action(
            **{"kind": type(self).__name__, **home, **self._options, **options, "fn": fn, "cost": cost or self._cost}
        )

    def _close(self):
        """Cancels what still runs and gives back what the trajectory held."""
        if self._trajectory is not None:
            self._scheduler.cancel(self._trajectory)
            self._trajectory = None


class ScheduledGRPOTrainer(GRPOTrainer):
    """
    `GRPOTrainer` that starts the tool calls of all samples of a turn before it waits for the first one.

    It overrides `_tool_call_loop` alone, and there only what the loop finds as tools: `ScheduledTool`s and asynchronous tools
    are looked up among calls started beforehand. Ordinary functions are called in place, one after another, as in TRL.
    """

    _tag_names = ["trl", "grpo", "mimo_hf"]
    _sync_tool_dicts: Any
    _async_tool_dicts: Any

    def _tool_call_loop(self, prompts, prompt_ids, completion_ids, completions, logprobs, images, multimodal_fields):
        plain, asynchronous = self._sync_tool_dicts, self._async_tool_dicts
        self._sync_tool_dicts = _StartedCalls(completions, plain, asynchronous, getattr(self, "async_loop", None))
        self._async_tool_dicts = [{}] * len(completions)
        try:
            return super()._tool_call_loop(
                prompts, prompt_ids, completion_ids, completions, logprobs, images, multimodal_fields
            )
        finally:
            self._sync_tool_dicts, self._async_tool_dicts = plain, asynchronous


class _StartedCalls:
    """
    For the loop, the tools of each sample. At the first look of a turn the calls of all samples are started; a tool then
    returns what its call, the next one of its sample, came to.
    """

    def __init__(self, completions: list[list[dict]], plain: Sequence[dict], asynchronous: Sequence[dict], loop: Any):
        self._completions, self._plain, self._async, self._loop = completions, plain, asynchronous, loop
        self._lengths = [0] * len(completions)
        self._started: dict[int, list[Future]] = {}

    def __getitem__(self, index: int) -> dict[str, Callable]:
        if len(self._completions[index]) > self._lengths[index]:  # a new turn
            self._start()
        tools = dict(self._plain[index])
        for name, tool in [*self._plain[index].items(), *self._async[index].items()]:
            if isinstance(tool, ScheduledTool) or name in self._async[index]:
                tools[name] = self._answers(index, tool)
        return tools

    def _start(self):
        """A sample takes part if its completion grew since the last turn: the loop drops others, and undoes their turn."""
        self._started = {}
        for index, completion in enumerate(self._completions):
            calls = completion[-1].get("tool_calls") if len(completion) > self._lengths[index] else None
            self._lengths[index] = len(completion)
            if calls:
                self._started[index] = [future for call in calls if (future := self._call(index, call)) is not None]

    def _call(self, index: int, call: Mapping[str, Any]) -> Future | None:
        """The running call; None for one that the loop answers or makes by itself."""
        if call.get("type") != "function" or not isinstance(call["function"].get("arguments"), Mapping):
            return None
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        tool = self._plain[index].get(name)
        if isinstance(tool, ScheduledTool):
            return _in_background(tool, arguments)
        if tool is None and name in self._async[index]:
            return asyncio.run_coroutine_threadsafe(_awaited(self._async[index][name], arguments), self._loop)
        return None

    def _answers(self, index: int, tool: Callable) -> Callable:
        @functools.wraps(tool)  # Python's words for a wrong call, which the model reads, begin with the name
        def result(**arguments: Any) -> Any:
            return self._started[index].pop(0).result()

        return result


async def _awaited(tool: Callable, arguments: Mapping[str, Any]) -> Any:
    return await tool(**arguments)


def _in_background(tool: ScheduledTool, arguments: Mapping[str, Any]) -> Future:
    """The call as a future of the scheduler's (or the client's) own loop."""
    try:
        return tool.scheduler.start(tool.action(**arguments))
    except Exception as error:  # noqa: BLE001  a wrong call is an answer to the model, as in TRL
        future: Future = Future()
        future.set_exception(error)
        return future


def make_rollout_func(
    step: Callable, scheduler: Any, cost: Cost | None = None, max_turns: int = 8, **options: Any
) -> Callable[[list[Any], Any], dict[str, list[Any]]]:
    """
    A `rollout_func` for `GRPOTrainer`: turns of generation, each followed by one action a sample, all samples at once.

    Args:
        step: `step(prompt, completion) -> str | None` of an importable module, called in a worker with the prompt as given and
            the text generated and observed so far: what the environment answers, or None at the end. An exception ends the
            sample's roll-out.
        scheduler: an `ActionScheduler` or a `SchedulerClient`.
        cost: of one step; None: one core.
        max_turns: generations of a sample at most.
        options: of the `Action`s.

    Returns:
        A function that gives prompt_ids, completion_ids and logprobs, env_mask (1 for the model's tokens, 0 for the
        environment's), and, for reward functions, `turns` and `rollout_error` (None or the text of the exception).
    """
    if max_turns < 1:
        raise ValueError(f"`max_turns` must be at least 1, not {max_turns!r}.")
    cost = {"cpu": 1} if cost is None else cost

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        tokenizer = trainer.processing_class
        budget = trainer.max_completion_length
        prompt_ids, _, _ = trainer._tokenize_prompts(prompts)
        count = len(prompts)
        ids: list[list[int]] = [[] for _ in range(count)]
        logprobs: list[list[float]] = [[] for _ in range(count)]
        mask: list[list[int]] = [[] for _ in range(count)]
        turns = [0] * count
        errors: list[str | None] = [None] * count
        names = [f"rollout-{os.getpid()}-{next(_TRAJECTORIES)}" for _ in range(count)]
        active = list(range(count))
        while active:
            new_ids, new_logprobs = trainer._generate_single_turn(
                [prompt_ids[i] + ids[i] for i in active], None, {}, 1
            )
            for row, i in enumerate(active):
                kept = list(new_ids[row])[: budget - len(ids[i])]
                ids[i] += kept
                mask[i] += [1] * len(kept)
                logprobs[i] += list(new_logprobs[row])[: len(kept)] if new_logprobs is not None else [0.0] * len(kept)
                turns[i] += 1
            active = [i for i in active if turns[i] < max_turns and len(ids[i]) < budget]
            actions = []
            for i in active:
                text = tokenizer.decode(ids[i], skip_special_tokens=True)
                about = {"kind": "rollout", "trajectory": names[i], **options}
                actions.append(Action(**{**about, "fn": functools.partial(step, prompts[i], text), "cost": cost}))
            answers = [_settled(future) for future in [scheduler.start(action) for action in actions]]
            going = []
            for i, answer in zip(active, answers, strict=True):
                if isinstance(answer, BaseException):
                    errors[i] = str(answer)
                elif answer is not None:
                    seen = tokenizer.encode(answer, add_special_tokens=False)[: budget - len(ids[i])]
                    ids[i] += seen
                    mask[i] += [0] * len(seen)
                    logprobs[i] += [0.0] * len(seen)
                    if len(ids[i]) < budget:
                        going.append(i)
            active = going
        for name in names:
            scheduler.release(name)
        return {
            "prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": logprobs, "env_mask": mask, "turns": turns,
            "rollout_error": errors,
        }  # fmt: skip

    return rollout


def _settled(future: Future) -> Any:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001  it ends one sample, not the batch
        return error
