"""Expert routing of MiMo-V2-Flash: balance loss, and rollout routing replay (R3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.mimo_v2_flash.modeling_mimo_v2_flash import MiMoV2FlashTopkRouter

from ..transformers_versions import cache_of


def routers_of(model: nn.Module) -> list[MiMoV2FlashTopkRouter]:
    """The routers of a model in the order of its layers."""
    routers = [module for module in model.modules() if isinstance(module, MiMoV2FlashTopkRouter)]
    if not routers:
        raise ValueError(
            f"`mlp_layer_types` must hold a 'sparse' for mixture-of-experts layers; {type(model).__name__} has none."
        )
    return routers


def sequence_balance_loss(
    router_logits: tuple[torch.Tensor, ...],
    router_indices: tuple[torch.Tensor, ...],
    batch_size: int,
    attention_mask: torch.Tensor | None = None,
    alpha: float = 1.0,
) -> torch.Tensor:
    r"""
    Sequence-wise balance loss in the form of DeepSeek-V3 (arXiv 2412.19437, eq. 17-20), which MiMo-V2-Flash names.

    For each sequence \\(L = \alpha \sum_e f_e P_e\\) with \\(f_e = \frac{E}{k T} \sum_t [e \in top_k(t)]\\) and
    \\(P_e = \frac{1}{T} \sum_t s_{te} / \sum_{e'} s_{te'}\\), s = sigmoid(router logits); mean over sequences and layers.
    Equals `alpha` at perfect balance.

    Args:
        router_logits: one `[batch * length, experts]` a layer.
        router_indices: one `[batch * length, top_k]` a layer, the chosen experts.
        attention_mask: `[batch, length]`, 0 for padding, which is left out; other shapes count every token.
        alpha: factor on the result; the model multiplies by `router_aux_loss_coef` itself.
    """
    num_experts = router_logits[0].shape[-1]
    losses = []
    for logits, indices in zip(router_logits, router_indices, strict=True):
        scores = logits.float().sigmoid().view(batch_size, -1, num_experts)
        length = scores.shape[1]
        if isinstance(attention_mask, torch.Tensor) and attention_mask.shape == (batch_size, length):
            tokens = attention_mask.to(device=scores.device, dtype=scores.dtype)
        else:
            tokens = scores.new_ones(batch_size, length)
        chosen = torch.zeros_like(scores).scatter_(-1, indices.view(batch_size, length, -1).to(scores.device), 1.0)
        counts = tokens.sum(dim=1, keepdim=True).clamp(min=1)
        load = (chosen * tokens[..., None]).sum(dim=1) * num_experts / (indices.shape[-1] * counts)
        share = ((scores / scores.sum(dim=-1, keepdim=True)) * tokens[..., None]).sum(dim=1) / counts
        losses.append((load * share).sum(dim=-1).mean())
    return alpha * torch.stack([loss.to(losses[0].device) for loss in losses]).mean()


class RoutingRecorder:
    """
    Experts chosen while `record_routing` is active.

    Attributes:
        indices (`torch.Tensor`): int16 `[tokens, moe_layers, top_k]`. Texts come one after another, each from its first
            token to its last; a forward pass on a filled cache goes on with the texts of the pass before.
    """

    def __init__(self, num_layers: int):
        self.num_layers = num_layers
        self.texts: list[list[list[torch.Tensor]]] = []  # of each text, of each layer, its chunks over time
        self.rows: list[int] = []  # of `texts`, for each row of the batch

    @property
    def indices(self) -> torch.Tensor:
        if not self.texts:
            raise ValueError("`indices` must not be empty: run the model inside `with record_routing(model)`.")
        return torch.cat([torch.stack([torch.cat(chunks) for chunks in layers], dim=1) for layers in self.texts])

    def begin(self, batch_size: int, continues: bool):
        if continues and len(self.rows) == batch_size:
            return
        self.rows = list(range(len(self.texts), len(self.texts) + batch_size))
        self.texts += [[[] for _ in range(self.num_layers)] for _ in range(batch_size)]

    def add(self, layer: int, indices: torch.Tensor):
        chunks = indices.to(torch.int16).cpu().view(len(self.rows), -1, indices.shape[-1])
        for row, chunk in zip(self.rows, chunks, strict=True):
            self.texts[row][layer].append(chunk)

    def drop_last(self, counts: list[int]):
        """Forgets the last `counts[i]` tokens of row i: drafts that the verification rejected."""
        for row, count in zip(self.rows, counts, strict=True):
            if count > 0:
                for chunks in self.texts[row]:
                    chunks[-1] = chunks[-1][:-count]

    def keep_rows(self, kept: list[int]):
        """Goes on with these rows of the batch; the texts of the others are complete."""
        self.rows = [self.rows[i] for i in kept]


@contextmanager
def record_routing(model: PreTrainedModel) -> Iterator[RoutingRecorder]:
    """
    Records which experts every token goes to, for `replay_routing` (R3; arXiv 2601.02780, section 4.6.1).

    Works over one forward pass or a whole `generate`, with `use_mtp=True` too: rejected drafts leave no trace. The last
    generated token never passes through the trunk and has no entry. Texts of a batch decoded with `use_mtp=True` end where
    they end; plain decoding records the padding behind them too.

    ```python
    with record_routing(model) as routing:
        model.generate(**inputs)
    routing.indices        # int16 [tokens, moe_layers, top_k]
    ```
    """
    routers = routers_of(model)
    recorder = RoutingRecorder(len(routers))
    inside = ForwardPasses(model)

    def note_batch(module, args, kwargs):
        given = next(x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None)
        cache = cache_of(kwargs)
        recorder.begin(given.shape[0], continues=cache is not None and cache.get_seq_length() > 0)

    def note_experts(router, args, output, layer):
        if inside.running:
            recorder.add(layer, output[2])

    handles = [*inside.handles, model.register_forward_pre_hook(note_batch, with_kwargs=True)]
    for layer, router in enumerate(routers):
        handles.append(router.register_forward_hook(partial(note_experts, layer=layer)))
    model.routing_recorder = recorder
    try:
        yield recorder
    finally:
        model.routing_recorder = None
        for handle in handles:
            handle.remove()


@contextmanager
def replay_routing(model: PreTrainedModel, indices: torch.Tensor) -> Iterator[None]:
    """
    Sends every token to recorded experts; their weights come from the current scores, so the router keeps its gradient.

    Gradient checkpointing routes the tokens again in the backward pass: call `backward()` inside too.

    Args:
        indices: integers `[tokens, moe_layers, top_k]` as recorded; `tokens` = batch * length of each forward pass inside.
            A negative entry leaves that token of that layer to the router: pad with -1 for tokens never recorded.

    Raises:
        ValueError: the shape does not fit the model or the forward pass, or an expert does not exist.
        RuntimeError: `backward()` did not run inside although gradient checkpointing is on.
    """
    routers = routers_of(model)
    _check_replayed(indices, routers)
    inside = ForwardPasses(model)
    recomputed = 0

    def replay(router, args, output, layer):
        nonlocal recomputed
        if layer == 0 and not inside.running:
            recomputed += 1
        logits, _, own = output
        if len(own) != len(indices):
            raise ValueError(f"`indices` must be of the {len(own)} tokens of this forward pass; got {len(indices)}.")
        recorded = indices[:, layer].to(device=own.device, dtype=own.dtype)
        chosen = torch.where((recorded < 0).any(dim=-1, keepdim=True), own, recorded)
        weights = logits.sigmoid().gather(1, chosen)
        if router.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return logits, weights * router.routed_scaling_factor, chosen

    handles = list(inside.handles)
    for layer, router in enumerate(routers):
        # First among the hooks, so that captured routing is the replayed one.
        handles.append(router.register_forward_hook(partial(replay, layer=layer), prepend=True))
    try:
        yield
        if recomputed < inside.checkpointed:
            raise RuntimeError(
                "With gradient checkpointing the backward pass routes the tokens again: call `backward()` inside "
                "`with replay_routing(...)`, or run the forward pass under `torch.no_grad()` if it needs none."
            )
    finally:
        for handle in handles:
            handle.remove()


def _check_replayed(indices: torch.Tensor, routers: list[MiMoV2FlashTopkRouter]):
    expected = (len(routers), routers[0].top_k)
    if indices.dim() != 3 or tuple(indices.shape[1:]) != expected:
        raise ValueError(
            f"`indices` must be [tokens, moe_layers, top_k] = [tokens, {expected[0]}, {expected[1]}]; got "
            f"{list(indices.shape)}."
        )
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"`indices` must hold integers, the numbers of the experts; got {indices.dtype}.")
    if indices.numel() and int(indices.max()) >= routers[0].num_experts:
        raise ValueError(f"`indices` must be below {routers[0].num_experts}; got expert {int(indices.max())}.")


class ForwardPasses:
    """Tells a model's forward pass from the recomputation of its layers under gradient checkpointing."""

    def __init__(self, model: nn.Module):
        self.running = False
        self.checkpointed = 0  # forward passes whose layers the backward pass will run again
        self.handles = [
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def _begin(self, model, args):
        self.running = True
        if model.training and torch.is_grad_enabled():
            self.checkpointed += any(getattr(module, "gradient_checkpointing", False) for module in model.modules())

    def _end(self, model, args, output):
        self.running = False


__all__ = [
    "RoutingRecorder",
    "record_routing",
    "replay_routing",
    "sequence_balance_loss",
]
