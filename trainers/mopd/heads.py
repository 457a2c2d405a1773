"""Next-token distributions from hidden states and a head, a chunk of positions at a time: `[positions, vocabulary]` is never whole."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

CHUNK = 1 << 22  # logits at a time


@dataclass(frozen=True)
class Head:
    """
    The map from hidden states to log-probabilities of one model, as its own forward does it, at a sampling temperature.

    Attributes:
        weight: `[V, H]`.
        bias: `[V]`, or None.
        scale: factor of the logits.
        softcap: the logits are softcap * tanh(logits / softcap), or None.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    temperature: float

    @classmethod
    def of(cls, model: nn.Module, temperature: float) -> "Head":
        """`model`: a causal LM, without its adapters' wrapper."""
        head: Any = model.get_output_embeddings()
        config: Any = model.config.get_text_config()
        softcap = getattr(config, "final_logit_softcapping", None)
        return cls(head.weight, getattr(head, "bias", None), _logit_scale(config), softcap, temperature)

    @property
    def vocab_size(self) -> int:
        return self.weight.shape[0]

    def cut(self, vocab_size: int) -> "Head":
        """The distribution over the first tokens alone, for two models whose tables are padded to different sizes."""
        bias = None if self.bias is None else self.bias[:vocab_size]
        return Head(self.weight[:vocab_size], bias, self.scale, self.softcap, self.temperature)

    def to(self, device: torch.device) -> "Head":
        bias = None if self.bias is None else self.bias.to(device)
        return Head(self.weight.to(device), bias, self.scale, self.softcap, self.temperature)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """`[N, H]` to `[N, V]`, in float32."""
        logits = nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias).float() * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return torch.log_softmax(logits / self.temperature, dim=-1)

    def chunks(self, positions: int) -> Iterator[slice]:
        rows = max(1, CHUNK // self.vocab_size)
        for start in range(0, max(positions, 1), rows):  # one, without positions, where there are none
            yield slice(start, min(start + rows, positions))


def _logit_scale(config: Any) -> float:
    """What a model multiplies its logits by: the field has a name for each family, and Granite's divides."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    return divisor if config.model_type == "hyperclovax" else 1 / divisor


@contextlib.contextmanager
def last_hidden_states(model: nn.Module) -> Iterator[list[Tensor]]:
    """
    Collects what the backbone of a causal LM gives its head, `[B, L, H]`, of each forward inside.

    Args:
        model: without its adapters' wrapper, whose forward calls this one's backbone.
    """
    states: list[Tensor] = []
    backbone: Any = model.base_model
    hook = backbone.register_forward_hook(lambda module, inputs, output: states.append(output.last_hidden_state))
    try:
        yield states
    finally:
        hook.remove()


@torch.no_grad()
def top_tokens(hidden: Tensor, head: Head, tokens: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """
    The most likely tokens at each position, and the sampled one if it is not among them.

    Args:
        hidden: `[N, H]`.
        tokens: `[N]`, the sampled tokens.

    Returns:
        Tokens and log-probabilities, `[N, top_k + 1]`. Where the sampled token is among the first `top_k`, the last entry repeats it.
    """
    ids, values = [], []
    for chunk in head.chunks(hidden.shape[0]):
        log_probs = head.log_probs(hidden[chunk])
        best = log_probs.topk(min(top_k, head.vocab_size), dim=-1)
        sampled = tokens[chunk].unsqueeze(-1)
        ids.append(torch.cat([best.indices, sampled], -1))
        values.append(torch.cat([best.values, log_probs.gather(-1, sampled)], -1))
    return torch.cat(ids), torch.cat(values)


def log_probs_of(hidden: Tensor, head: Head, ids: Tensor) -> Tensor:
    """Log-probabilities of these tokens, with gradient: `[N, H]` and `[N, K]` to `[N, K]`."""

    def some(states: Tensor, wanted: Tensor) -> Tensor:
        return head.log_probs(states).gather(-1, wanted)

    return torch.cat([_recomputed(some, hidden[chunk], ids[chunk]) for chunk in head.chunks(hidden.shape[0])])


def top_log_probs(hidden: Tensor, head: Head, top_k: int) -> tuple[Tensor, Tensor]:
    """The most likely tokens, and their log-probabilities with gradient: `[N, H]` to twice `[N, top_k]`."""

    def best(states: Tensor) -> tuple[Tensor, Tensor]:
        found = head.log_probs(states).topk(min(top_k, head.vocab_size), dim=-1)
        return found.indices, found.values

    parts = [_recomputed(best, hidden[chunk]) for chunk in head.chunks(hidden.shape[0])]
    return torch.cat([ids for ids, _ in parts]), torch.cat([values for _, values in parts])


def reverse_kl(hidden: Tensor, head: Head, teacher_hidden: Tensor, teacher_head: Head) -> Tensor:
    """KL(student || teacher) over the whole vocabulary, with gradient to the student: `[N, H]`, `[N, H_t]` to `[N]`."""
    divergence, _ = ChunkedDivergenceFunction.apply(
        hidden,
        head.weight,
        head.bias,
        teacher_hidden,
        teacher_head.weight,
        teacher_head.bias,
        1.0,  # TRL's name of the reverse KL
        head.temperature,
        head.scale,
        head.softcap,
        teacher_head.scale,
        teacher_head.softcap,
    )
    return divergence


def _recomputed(function: Any, *arguments: Tensor) -> Any:
    return checkpoint(function, *arguments, use_reentrant=False)
