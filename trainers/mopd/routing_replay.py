"""Rollout routing replay (R3; MiMo-V2-Flash, arXiv 2601.02780, section 4.6): experts stay those that the rollout chose."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

CHECKED = 1e-4  # how far a router's own weights may be from the rule that they are taken to follow


class RoutingReplay:
    """
    Records which experts a model's routers choose, and makes them choose these again; gradients go to the routers as ever.

    Hooks stay on the routers, as gradient checkpointing runs layers again in the backward pass: `replay` holds until `clear`.

    Args:
        model: without its adapters' wrapper, with routers that give (logits, weights, experts) as transformers' do.

    Raises:
        ValueError: it has no experts.
        NotImplementedError: its routers are unknown, here or as soon as one is seen to weigh experts by no known rule.
    """

    def __init__(self, model: nn.Module):
        self.routers = [module for module in model.modules() if type(module).__name__.lower().endswith("topkrouter")]
        if not self.routers:
            experts = [
                type(module).__name__ for module in model.modules() if type(module).__name__.endswith("Experts")
            ]
            if experts:
                raise NotImplementedError(
                    f"`router_replay` does not know the routers of {experts[0]}: set router_replay=False."
                )
            raise ValueError(
                f"`router_replay` must be False for a model without experts; got True, and {type(model).__name__} has none."
            )
        self._rules: list[Any] = [None] * len(self.routers)
        self._recorded: list[list[Tensor]] | None = None
        self._chosen: Tensor | None = None
        for index, router in enumerate(self.routers):
            router.register_forward_hook(lambda module, inputs, output, index=index: self._at_router(index, output))

    @contextlib.contextmanager
    def record(self) -> Iterator[list[list[Tensor]]]:
        """Of each router, the experts of each forward inside, `[tokens, k]`."""
        self.clear()
        self._recorded = [[] for _ in self.routers]
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def replay(self, chosen: Tensor) -> None:
        """`chosen`: `[B, L, routers, k]`, of the rows of the forwards to come."""
        self._chosen = chosen.flatten(0, 1)

    def clear(self) -> None:
        self._chosen = None

    def _at_router(self, index: int, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
        logits, weights, experts = output
        if self._recorded is not None:
            self._rules[index] = self._rules[index] or self._rule(self.routers[index], logits, weights, experts)
            self._recorded[index].append(experts.to(torch.int16))
            return None
        if self._chosen is None:
            return None
        chosen = self._chosen[:, index].to(experts)
        return logits, self._rules[index](self.routers[index], logits, chosen).to(weights.dtype), chosen

    @staticmethod
    def _rule(router: nn.Module, logits: Tensor, weights: Tensor, experts: Tensor) -> Any:
        for rule in (_softmax_weights, _sigmoid_weights):
            if torch.allclose(rule(router, logits, experts).float(), weights.float(), rtol=1e-2, atol=CHECKED):
                return rule
        raise NotImplementedError(
            f"`router_replay` does not know how {type(router).__name__} weighs its experts: set router_replay=False."
        )


def _softmax_weights(router: Any, logits: Tensor, experts: Tensor) -> Tensor:
    """Qwen3-MoE's: probabilities of the chosen experts, normalised over them where the config says so."""
    weights = torch.softmax(logits, dim=-1, dtype=torch.float).gather(-1, experts)
    return weights / weights.sum(-1, keepdim=True) if getattr(router, "norm_topk_prob", True) else weights


def _sigmoid_weights(router: Any, logits: Tensor, experts: Tensor) -> Tensor:
    """MiMo-V2-Flash's and DeepSeek-V3's: the choice is by biased scores, the weights are without the bias."""
    weights = logits.float().sigmoid().gather(-1, experts)
    if getattr(router, "norm_topk_prob", True):
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * getattr(router, "routed_scaling_factor", 1.0)


def stacked(recorded: list[list[Tensor]], rows: int) -> Tensor:
    """What `record` gave as `[B, L, routers, k]`."""
    return torch.stack([torch.cat([part.view(-1, part.shape[-1]) for part in parts]) for parts in recorded], 1).view(
        rows, -1, len(recorded), recorded[0][0].shape[-1]
    )
