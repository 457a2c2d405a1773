"""MiMo's seamless rollout engine (arXiv 2505.07608, section 3.4.1): the groups of one step from any asynchronous engine."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from .group_batch import informative_groups

_END = object()


@dataclass(slots=True, eq=False)
class RolloutTask:
    """
    One problem of a rollout: its group of completions and their rewards. Times are seconds since the rollout began.

    Attributes:
        order: 0 for the task started first.
        output: what `generate_fn` returned; None before `generated_s`.
        reward: what `reward_fn` returned.
        valid: whether the group may be selected; None if it was not finished, i.e. generated and scored.
        generated_s, finished_s: None where that has not happened.
    """

    order: int
    prompt: Any
    started_s: float
    output: Any = None
    reward: Any = None
    valid: bool | None = None
    generated_s: float | None = None
    finished_s: float | None = None


@dataclass(frozen=True)
class RolloutStats:
    """
    Counts of tasks, and times, up to the moment of the selection.

    Attributes:
        started, finished, valid, selected: each at most the one before.
        wasted: valid and not selected.
        cancelled: started and not finished.
        returned: prompts that went back to the front, those of the cancelled tasks among them.
        pass_rate: valid / finished; NaN if nothing finished.
        idle_share: share of `max_inflight * wall_s` in which no task was generating.
        wall_s: seconds; cleaning up after cancelled tasks comes on top.
    """

    started: int
    finished: int
    valid: int
    selected: int
    wasted: int
    cancelled: int
    returned: int
    pass_rate: float
    idle_share: float
    wall_s: float


@dataclass(frozen=True)
class RolloutResult:
    """
    What `SeamlessRollout.rollout` gives.

    Attributes:
        groups: the selected tasks, in the order in which they were started.
        tasks: all started tasks, in that order; those after the last selected one will be started again.
        exhausted: there are fewer than `needed` groups, because prompts or `max_tasks` ran out; every task has finished.
        stats: counts and times.
    """

    groups: list[RolloutTask]
    tasks: list[RolloutTask]
    exhausted: bool
    stats: RolloutStats


class RolloutError(RuntimeError):
    """
    `generate_fn`, `reward_fn` or `is_valid` raised, or what it waited for was cancelled; `__cause__` says why.

    Attributes:
        prompt: the one at fault. It went back to `SeamlessRollout.returned` with the others: remove it to go on without.
    """

    def __init__(self, message: str, prompt: Any):
        super().__init__(message)
        self.prompt = prompt


def rewards_differ(rewards: Sequence[float | None]) -> bool:
    """Whether a group's rewards, one a completion, give a gradient; None and NaN are left out (see `informative_groups`)."""
    try:
        values = torch.as_tensor([math.nan if reward is None else reward for reward in rewards], dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if values.dim() != 1 or not len(values):
        raise TypeError(
            f"`reward_fn` must return the rewards of a group, one number or None a completion; got {rewards!r}. For "
            "other rewards, pass `is_valid`."
        )
    return bool(informative_groups(values))


class SeamlessRollout:
    """
    Fills a training batch with groups that carry a gradient, without rounds: the first `needed` valid ones in the order
    in which they were started.

    A task is one problem: one call of `generate_fn`, for the whole group of completions, and one of `reward_fn`.

    - Continuous rollout: while a slot is free, the next prompt is started if
      `valid + unfinished * pass_rate < needed`. `unfinished` counts tasks that are generated or scored;
      `pass_rate` is `(a + valid) / (a + b + finished)`, with `(a, b)` from `prior`.
    - Asynchronous reward: a task holds one of the `max_inflight` slots until `generate_fn` returns. Scoring has a limit
      of its own.
    - Early termination: the rollout ends when `needed` valid tasks and all tasks started before the last of these have
      finished. Others are cancelled. Taking those that finish first would prefer short completions.

    The prompts of all tasks after the last selected one go back to the front of the queue, whatever became of them. So
    a step uses up what a sampler that looks at one problem after another would: errors apart, which groups are selected
    and which prompts come next depends on outputs and rewards, never on timing (as long as the source of the prompts does
    not look at results). If cancelled prompts alone went back, problems with short completions would be trained on less
    often.

    All tasks of a rollout see one policy: update the weights between rollouts. An object does one rollout at a time.

    Args:
        generate_fn: `async (prompt) -> output`. When cancelled it must end: the rollout waits for it.
        reward_fn: `async (prompt, output) -> reward`.
        needed: groups to select.
        max_inflight: tasks that may be generating at a time.
        max_rewards: calls of `reward_fn` at a time; None: no limit.
        is_valid: `(reward) -> bool`: whether the group may be selected. The default is for rewards that are a number or
            None a completion: two of them differ.
        prior: pseudo-counts of valid and invalid tasks before the first one has finished; both above 0.
        max_tasks: a rollout starts no more than these; None: as many as there are prompts, without end if these are
            endless and nothing is valid.

    Attributes:
        returned: prompts that the next rollout starts with, before it asks for new ones. Part of a checkpoint.
    """

    def __init__(
        self,
        generate_fn: Callable[[Any], Awaitable[Any]],
        reward_fn: Callable[[Any, Any], Awaitable[Any]],
        needed: int,
        max_inflight: int,
        *,
        max_rewards: int | None = None,
        is_valid: Callable[[Any], bool] = rewards_differ,
        prior: tuple[float, float] = (1.0, 1.0),
        max_tasks: int | None = None,
    ):
        for name, function in (("generate_fn", generate_fn), ("reward_fn", reward_fn), ("is_valid", is_valid)):
            if not callable(function):
                raise TypeError(f"`{name}` must be callable; got {function!r}.")
        limits = {"needed": needed, "max_inflight": max_inflight}
        if max_rewards is not None:
            limits["max_rewards"] = max_rewards
        for name, limit in limits.items():
            if limit < 1:
                raise ValueError(f"`{name}` must be at least 1; got {limit}.")
        if max_tasks is not None and max_tasks < needed:
            raise ValueError(f"`max_tasks` must be at least needed={needed}; got {max_tasks}.")
        if len(prior) != 2 or not all(0 < count < math.inf for count in prior):
            raise ValueError(f"`prior` must be two finite counts above 0, of valid and of invalid tasks; got {prior}.")
        self.generate_fn, self.reward_fn, self.is_valid = generate_fn, reward_fn, is_valid
        self.needed, self.max_inflight, self.max_rewards = needed, max_inflight, max_rewards
        self.prior, self.max_tasks = prior, max_tasks
        self.returned: deque[Any] = deque()
        self._running = False

    async def rollout(self, prompts: Iterable[Any]) -> RolloutResult:
        """
        The groups of one step.

        Args:
            prompts: read one at a time, after `returned`, when a task is started. Pass the same iterator to every call:
                a list would be read from its beginning.

        Returns:
            `needed` groups, or fewer with `exhausted` set.

        Raises:
            RolloutError: a function raised for a prompt.
            CancelledError: the caller was cancelled.

        After an exception every task has ended and all prompts started are back in `returned`.
        """
        if self._running:
            raise RuntimeError("This SeamlessRollout is in a rollout: await it first, or make another object.")
        source = iter(prompts)
        step = _Step(self.max_rewards)
        self._running = True
        try:
            try:
                groups = await self._work(step, source)
            finally:
                step.wall_s = step.now()
                await step.end()
        except BaseException:
            self._put_back(step.tasks)
            raise
        finally:
            self._running = False
        exhausted = len(groups) < self.needed
        # All that was started is used up if prompts ran out: the last task may be invalid, and is known to be.
        unused = [] if exhausted else step.tasks[1 + max(task.order for task in groups) :]
        self._put_back(unused)
        return RolloutResult(groups, step.tasks, exhausted, self._stats(step, len(groups), len(unused)))

    def run(self, prompts: Iterable[Any]) -> RolloutResult:
        """
        `rollout` from synchronous code, on a new event loop: connections that belong to another loop cannot be used.

        Where a loop runs in this thread already, as in a notebook, the new one runs in a thread of its own, without this
        thread's local settings such as `torch.no_grad`. An interrupt cancels the rollout.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.rollout(prompts))

        began: Future = Future()

        async def work() -> RolloutResult:
            began.set_result((asyncio.get_running_loop(), asyncio.current_task()))
            return await self.rollout(prompts)

        with ThreadPoolExecutor(1, "seamless-rollout") as pool:
            ended = pool.submit(lambda: asyncio.run(work()))
            try:
                return ended.result()
            except BaseException:
                wait((began, ended), return_when=FIRST_COMPLETED)
                if not ended.done():
                    loop, task = began.result()
                    with contextlib.suppress(RuntimeError):  # the loop was closed in between
                        loop.call_soon_threadsafe(task.cancel)
                raise

    async def _work(self, step: "_Step", source: Iterator[Any]) -> list[RolloutTask]:
        while True:
            if step.failure is not None:
                raise step.failure
            groups = self._select(step.tasks) if step.valid >= self.needed else None
            if groups is not None:
                return groups
            self._start_tasks(step, source)
            if not step.unfinished:  # and nothing could be started
                return [task for task in step.tasks if task.valid]
            await step.changed.wait()
            step.changed.clear()

    def _start_tasks(self, step: "_Step", source: Iterator[Any]) -> None:
        valid_prior, invalid_prior = self.prior
        while step.generating < self.max_inflight and len(step.tasks) != self.max_tasks:
            pass_rate = (valid_prior + step.valid) / (valid_prior + invalid_prior + step.finished)
            if step.valid + step.unfinished * pass_rate >= self.needed:
                return
            prompt = self.returned.popleft() if self.returned else next(source, _END)
            if prompt is _END:
                return
            task = RolloutTask(len(step.tasks), prompt, step.now())
            step.start(task, self._serve(step, task))

    async def _serve(self, step: "_Step", task: RolloutTask) -> None:
        place = "generate_fn"
        try:
            output = await self.generate_fn(task.prompt)
            if step.over:  # it took no notice of being cancelled
                return
            task.output = output
            step.generated(task)
            place = "reward_fn"
            async with step.reward_slots:
                reward = await self.reward_fn(task.prompt, output)
            place = "is_valid"
            valid = bool(self.is_valid(reward))
        except Exception as error:
            raise RolloutError(
                f"`{place}` raised {error!r} for the prompt {_shown(task.prompt)}.", task.prompt
            ) from error
        if not step.over:
            task.reward = reward
            step.finish(task, valid)

    def _select(self, tasks: Sequence[RolloutTask]) -> list[RolloutTask] | None:
        """The first `needed` valid tasks, once all before the last of them have finished."""
        groups = []
        for task in tasks:
            if task.valid is None:
                return None
            if task.valid:
                groups.append(task)
                if len(groups) == self.needed:
                    return groups
        return None

    def _put_back(self, tasks: Sequence[RolloutTask]) -> None:
        self.returned.extendleft(task.prompt for task in reversed(tasks))

    def _stats(self, step: "_Step", selected: int, returned: int) -> RolloutStats:
        ends = [(step.wall_s if task.generated_s is None else task.generated_s) for task in step.tasks]
        generating_s = sum(end - task.started_s for task, end in zip(step.tasks, ends, strict=True))
        capacity_s = self.max_inflight * step.wall_s
        return RolloutStats(
            started=len(step.tasks),
            finished=step.finished,
            valid=step.valid,
            selected=selected,
            wasted=step.valid - selected,
            cancelled=step.unfinished,
            returned=returned,
            pass_rate=step.valid / step.finished if step.finished else math.nan,
            idle_share=max(0.0, 1 - generating_s / capacity_s) if capacity_s else 0.0,  # the sum is rounded
            wall_s=step.wall_s,
        )


class _Step:
    """The tasks of one rollout: counts, and the asyncio tasks that serve them."""

    def __init__(self, max_rewards: int | None):
        self.tasks: list[RolloutTask] = []
        self.generating = self.finished = self.valid = 0
        self.over = False
        self.failure: BaseException | None = None
        self.changed = asyncio.Event()
        self.reward_slots: Any = contextlib.nullcontext() if max_rewards is None else asyncio.Semaphore(max_rewards)
        self.wall_s = 0.0
        self._jobs: dict[asyncio.Task, RolloutTask] = {}  # in the order of their start
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()

    @property
    def unfinished(self) -> int:
        return len(self.tasks) - self.finished

    def now(self) -> float:
        return self._loop.time() - self._began_s

    def start(self, task: RolloutTask, work: Any) -> None:
        self.tasks.append(task)
        self.generating += 1
        job = self._loop.create_task(work)
        self._jobs[job] = task
        job.add_done_callback(self._ended)

    def generated(self, task: RolloutTask) -> None:
        task.generated_s = self.now()
        self.generating -= 1
        self.changed.set()

    def finish(self, task: RolloutTask, valid: bool) -> None:
        task.valid, task.finished_s = valid, self.now()
        self.finished += 1
        self.valid += valid
        self.changed.set()

    def _ended(self, job: asyncio.Task) -> None:
        task = self._jobs.pop(job)
        if job.cancelled():
            failure: BaseException | None = RolloutError(
                f"What the prompt {_shown(task.prompt)} waited for was cancelled, and not by the rollout.", task.prompt
            )
        else:
            failure = job.exception()
        if self.failure is None:
            self.failure = failure
        self.changed.set()

    async def end(self) -> None:
        """Cancels what runs and waits until it has ended, also if the caller is cancelled meanwhile."""
        self.over = True
        for job in self._jobs:
            job.cancel()
        interrupted: asyncio.CancelledError | None = None
        while self._jobs:
            try:
                await asyncio.wait(self._jobs)
            except asyncio.CancelledError as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted


def _shown(prompt: Any) -> str:
    text = repr(prompt)
    return text if len(text) <= 200 else f"{text[:200]}..."
