"""Teachers of on-policy distillation (MOPD) as services: log-probabilities of many models on a device that holds a few."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from ..core.types import Action, ServiceCall
from .torch_service import TorchService


def token_logprobs(model: torch.nn.Module, batch: list[torch.Tensor], temperature: float = 1.0) -> list[torch.Tensor]:
    """Log-probability of each token given those before it: for `[T]` ids, `[T - 1]` in float32, on the CPU."""
    longest = max(len(ids) for ids in batch)
    padded = torch.stack([torch.nn.functional.pad(ids, (0, longest - len(ids))) for ids in batch])
    mask = torch.stack([torch.arange(longest) < len(ids) for ids in batch]).long()
    logits = model(input_ids=padded, attention_mask=mask).logits[:, :-1].float() / temperature
    found = logits.log_softmax(-1).gather(-1, padded[:, 1:, None].to(logits.device)).squeeze(-1).cpu()
    return [row[: len(ids) - 1] for row, ids in zip(found, batch, strict=True)]


class TeacherPool:
    """
    Causal language models behind one scheduler of this process: `await pool.logprobs("math", ids)`.

    Args:
        scheduler: an open `ActionScheduler`; teachers share its `gpu_bytes`.
        loaders: for each name a function that loads a model in eval mode on the CPU.
        nbytes: device memory of each while resident, workspace included: one number or one a name.
        device: where they run; None: accelerate's default device.
        max_batch_tokens, max_wait_ms: requests to one teacher are joined up to so many tokens, waiting so long.
        temperature: that log-probabilities are at.
    """

    def __init__(
        self,
        scheduler: Any,
        loaders: Mapping[str, Callable[[], torch.nn.Module]],
        nbytes: int | Mapping[str, int],
        device: Any = None,
        max_batch_tokens: int = 8192,
        max_wait_ms: float = 5.0,
        temperature: float = 1.0,
    ):
        if not temperature > 0:
            raise ValueError(f"`temperature` must be above 0; got {temperature}.")
        self._scheduler = scheduler
        self.temperature = temperature
        self.names = tuple(loaders)
        score = partial(token_logprobs, temperature=temperature)
        for name, load in loaders.items():
            size = nbytes if isinstance(nbytes, int) else nbytes[name]
            service = TorchService(
                load, score, size, device, max_batch_tokens=max_batch_tokens, max_wait_ms=max_wait_ms
            )
            scheduler.add_service(name, service)

    async def logprobs(self, teacher: str, ids: torch.Tensor, trajectory: str | None = None) -> torch.Tensor:
        """`[T]` token ids give the `[T - 1]` log-probabilities of all but the first. ValueError for an unknown teacher."""
        return await self._scheduler.run(self._action(teacher, ids, trajectory))

    def teacher(self, name: str) -> "ScheduledTeacher":
        """One of them as `MOPDTrainer` takes teachers, `teachers={"math": pool.teacher("math")}`; its estimator is `sampled`."""
        return ScheduledTeacher(self, name)

    def _action(self, teacher: str, ids: torch.Tensor, trajectory: str | None = None) -> Action:
        if teacher not in self.names:
            raise ValueError(f"`teacher` must be one of {', '.join(self.names)}; got {teacher!r}.")
        if ids.ndim != 1 or len(ids) < 2:
            raise ValueError(f"`ids` must be one sequence of at least two tokens, not of shape {tuple(ids.shape)}.")
        call = ServiceCall(teacher, ids.cpu(), tokens=len(ids))
        return Action(f"logprobs:{teacher}", call, {}, trajectory=trajectory)


class Scores(NamedTuple):
    """Log-probabilities of a completion's tokens; no others are known."""

    logps: list[float]
    top_ids: list[list[int]]
    top_logps: list[list[float]]


class ScheduledTeacher:
    """A teacher of a `TeacherPool`; it is asked from outside the scheduler's loop, all sequences at once."""

    def __init__(self, pool: TeacherPool, name: str):
        if name not in pool.names:
            raise ValueError(f"`teacher` must be one of {', '.join(pool.names)}; got {name!r}.")
        self._pool, self.name = pool, name

    def describe(self) -> dict[str, Any]:
        return {"kind": "scheduled", "source": self.name}

    def check(self, temperature: float, top_k: int, vocab_size: int | None) -> None:
        """Whether it can score at this temperature, and nothing but the tokens themselves is asked for."""
        if temperature != self._pool.temperature:
            raise ValueError(
                f"`temperature` of the training must be that of the TeacherPool, {self._pool.temperature}; got {temperature}. Set "
                "TeacherPool(temperature=...)."
            )
        if top_k:
            raise ValueError(
                f"`kl_estimator` must be 'sampled', as a scheduled teacher gives no other tokens' probabilities; {top_k} were asked for."
            )

    def score(
        self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], temperature: float, top_k: int = 0
    ) -> list[Scores]:
        """Of each sequence, the log-probabilities of what follows its prompt, which has a token at least."""
        self.check(temperature, top_k, None)
        pool = self._pool
        started = [
            pool._scheduler.start(pool._action(self.name, torch.tensor(ids))) if len(ids) > length else None
            for ids, length in zip(sequences, prompt_lengths, strict=True)
        ]
        found = [[] if future is None else future.result().tolist() for future in started]
        rows = [row[length - 1 :] if row else [] for row, length in zip(found, prompt_lengths, strict=True)]
        return [Scores(row, [[]] * len(row), [[]] * len(row)) for row in rows]
