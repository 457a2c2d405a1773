"""Dynamic sampling with an asynchronous engine: problems are started, scored and selected one by one instead of in rounds."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, TypedDict

import torch
from trl.data_utils import is_conversational

from .prompt_sampler import PromptSampler
from .seamless import RolloutTask, SeamlessRollout


class Generated(TypedDict):
    """
    What an engine returns for a prompt: token ids of the prompt, and of its completions without padding; the log-probabilities of
    the completions' tokens under the engine's policy, or None.
    """

    prompt_ids: list[int]
    completion_ids: list[list[int]]
    logprobs: list[list[float]] | None


# (prompt, number of completions) to a group
GenerateFn = Callable[[Any, int], Awaitable[Generated]]


class EngineTrainer(Protocol):
    """What an engine needs of the trainer whose batches it fills."""

    args: Any
    model: Any
    num_generations: int
    num_generations_eval: int
    processing_class: Any
    sampler: PromptSampler | None
    train_dataset: Any

    def score_rows(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """Rewards of rows, `[rows, functions]`."""

    def make_round(self, batch: dict[str, Any], rewards: torch.Tensor, exempt: torch.Tensor | None) -> Any:
        """What is known of the groups of these rows: `kept`, `solved`, ..."""


class EngineRollout:
    """
    Fills the batches of a trainer by `SeamlessRollout`.

    Args:
        trainer: on one process, with a `PromptSampler`.
        generate_fn: the engine.
        max_inflight: problems that may be generating at a time.
    """

    def __init__(self, trainer: EngineTrainer, generate_fn: GenerateFn, max_inflight: int):
        self.trainer, self.generate_fn, self.max_inflight = trainer, generate_fn, max_inflight
        self.rewards: torch.Tensor | None = None  # of the rows that are being made into a batch, [rows, functions]
        self._groups: deque[Generated] = deque()  # their completions

    @property
    def sampler(self) -> PromptSampler:
        assert self.trainer.sampler is not None  # noqa: S101  for type checkers: a trainer with an engine draws prompts
        return self.trainer.sampler

    def collect(self, needed: int) -> tuple[list[RolloutTask], Any]:
        """Finished tasks for a batch, the `needed` selected ones first, and the counts of the rollout."""
        trainer = self.trainer
        rollout = SeamlessRollout(
            lambda index: self.generate_fn(trainer.train_dataset[index]["prompt"], trainer.num_generations),
            self._score,
            needed,
            self.max_inflight,
            max_rewards=1,  # TRL's scoring is not made for several threads
            is_valid=lambda scored: bool(scored.kept.all()),
            max_tasks=trainer.args.max_sampling_rounds * needed,
        )
        states: list[dict[str, Any]] = []  # of the sampler, before each draw

        def draws() -> Iterator[int]:
            while True:
                states.append(self.sampler.state_dict())
                yield self.sampler.draw(1)[0]

        try:
            result = rollout.run(draws())
        except BaseException:
            if states:
                self.sampler.load_state_dict(states[0])
            raise
        used = result.tasks[: len(result.tasks) - result.stats.returned]
        # How many were drawn beyond these depends on timing; what comes next must not.
        if len(used) < len(states):
            self.sampler.load_state_dict(states[len(used)])
        for task in used:
            self.sampler.update(task.prompt, bool(task.reward.solved.all()))
        others = [task for task in used if not task.valid]
        return [*result.groups, *others], result.stats

    def prepare(self, tasks: Sequence[RolloutTask]) -> None:
        """The next batch that TRL makes is of these groups."""
        self._groups.extend(task.output for task in tasks)
        self.rewards = torch.cat([task.reward.batch["rewards"] for task in tasks])

    def rollout_func(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """TRL's hook: hands out what was prepared or, where nothing was, as in an evaluation, generates."""
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        if self.rewards is None:
            groups = self._generate_all(prompts[::size], size)
        else:
            groups = [self._groups.popleft() for _ in range(len(prompts) // size)]
        logprobs = [row for group in groups for row in group.get("logprobs") or []]
        completion_ids = [ids for group in groups for ids in group["completion_ids"]]
        return {
            "prompt_ids": [group["prompt_ids"] for group in groups for _ in range(size)],
            "completion_ids": completion_ids,
            "logprobs": logprobs if len(logprobs) == len(completion_ids) else None,
        }

    def _generate_all(self, prompts: Sequence[Any], size: int) -> list[Generated]:
        async def scored(prompt: Any, output: Generated) -> bool:
            return True

        rollout = SeamlessRollout(
            lambda prompt: self.generate_fn(prompt, size), scored, len(prompts), self.max_inflight, is_valid=bool
        )
        return [task.output for task in rollout.run(prompts).groups]

    async def _score(self, index: int, output: Generated) -> Any:
        self._check(output)
        return await asyncio.to_thread(self._round, index, output)

    def _round(self, index: int, output: Generated) -> Any:
        trainer = self.trainer
        rows = [dict(trainer.train_dataset[index]) for _ in output["completion_ids"]]
        texts = trainer.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
        chat = is_conversational(rows[0])
        completions = [[{"role": "assistant", "content": text}] for text in texts] if chat else texts
        rewards = trainer.score_rows(rows, [row["prompt"] for row in rows], completions, output["completion_ids"])
        exempt = trainer.args.easy_pool_keep_zero_std and self.sampler.in_pool(index)
        return trainer.make_round({"rewards": rewards}, rewards, torch.tensor([exempt]))

    def _check(self, output: Any) -> None:
        size = self.trainer.num_generations
        completions = output.get("completion_ids") if isinstance(output, dict) else None
        if completions is None or "prompt_ids" not in output or len(completions) != size:
            raise ValueError(
                f"`generate_fn` must return a dict with `prompt_ids` and {size} lists in `completion_ids` (one a completion of the "
                f"group); got {type(output).__name__} with {len(completions or ())} completions."
            )
