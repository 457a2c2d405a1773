"""Teachers of on-policy distillation (MOPD) as services: log-probabilities of many models on a device that holds a few."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..core.types import Action, ServiceCall
from .torch_service import TorchService


def token_logprobs(model: torch.nn.Module, batch: list[torch.Tensor]) -> list[torch.Tensor]:
    """Log-probability of each token given those before it: for `[T]` ids, `[T - 1]` in float32, on the CPU."""
    longest = max(len(ids) for ids in batch)
    padded = torch.stack([torch.nn.functional.pad(ids, (0, longest - len(ids))) for ids in batch])
    mask = torch.stack([torch.arange(longest) < len(ids) for ids in batch]).long()
    logits = model(input_ids=padded, attention_mask=mask).logits[:, :-1].float()
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
    """

    def __init__(
        self,
        scheduler: Any,
        loaders: Mapping[str, Callable[[], torch.nn.Module]],
        nbytes: int | Mapping[str, int],
        device: Any = None,
        max_batch_tokens: int = 8192,
        max_wait_ms: float = 5.0,
    ):
        self._scheduler = scheduler
        self.names = tuple(loaders)
        for name, load in loaders.items():
            size = nbytes if isinstance(nbytes, int) else nbytes[name]
            service = TorchService(
                load, token_logprobs, size, device, max_batch_tokens=max_batch_tokens, max_wait_ms=max_wait_ms
            )
            scheduler.add_service(name, service)

    async def logprobs(self, teacher: str, ids: torch.Tensor, trajectory: str | None = None) -> torch.Tensor:
        """`[T]` token ids give the `[T - 1]` log-probabilities of all but the first. ValueError for an unknown teacher."""
        if teacher not in self.names:
            raise ValueError(f"there is no teacher {teacher!r}; known are: {', '.join(self.names)}.")
        if ids.ndim != 1 or len(ids) < 2:
            raise ValueError(f"`ids` must be one sequence of at least two tokens, not of shape {tuple(ids.shape)}.")
        call = ServiceCall(teacher, ids.cpu(), tokens=len(ids))
        return await self._scheduler.run(Action(f"logprobs:{teacher}", call, {}, trajectory=trajectory))
