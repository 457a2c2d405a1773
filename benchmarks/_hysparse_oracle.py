"""How well a full layer's selection serves the sparse layers behind it, measured on a trained model."""

from contextlib import ExitStack

import torch
from torch import Tensor

from mimo_hf.modeling.hysparse import HySparseModel
from mimo_hf.modeling.hysparse.attention_hysparse import NAME


@torch.no_grad()
def recorded_reads(trunk: HySparseModel, forward) -> dict[int, tuple]:
    """By sparse layer, what its global branch got while `forward()` ran: queries, keys, values and block indices."""
    reads: dict[int, tuple] = {}

    def hook_of(layer: int):
        def hook(module, arguments):
            reads[layer] = arguments[:4]

        return hook

    implementation = trunk.config._attn_implementation
    with ExitStack() as hooks:
        # The module that is hooked into is not asked where all weights are made at once.
        trunk.set_attn_implementation(NAME)
        hooks.callback(trunk.set_attn_implementation, implementation)
        for index, layer in enumerate(trunk.layers):
            if hasattr(layer.self_attn, "attend_blocks"):
                handle = layer.self_attn.attend_blocks.register_forward_pre_hook(hook_of(index))
                hooks.callback(handle.remove)
        forward()
    return reads


def probabilities(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """What a sparse layer would give each key if it read them all: `[batch, kv_heads, group, queries, keys]`, causal, no sink."""
    grouped = query.unflatten(1, (key.shape[1], -1))
    logits = grouped @ key[:, :, None].transpose(-1, -2) * scaling
    future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    return logits.masked_fill(future, float("-inf")).softmax(-1)


def by_block(values: Tensor, block_size: int) -> Tensor:
    """`[..., keys]` to `[..., blocks, block_size]`, zeros beyond the end."""
    return torch.nn.functional.pad(values, (0, -values.shape[-1] % block_size)).unflatten(-1, (-1, block_size))


def selection_mask(block_indices: Tensor, num_blocks: int) -> Tensor:
    """`[..., topk]` to `[..., blocks]`, True where a block is selected."""
    mask = torch.zeros(*block_indices.shape[:-1], num_blocks + 1, dtype=torch.bool)
    mask.scatter_(-1, block_indices.long().masked_fill(block_indices < 0, num_blocks), True)
    return mask[..., :num_blocks]


@torch.no_grad()
def oracle_diagnostics(trunk: HySparseModel, forward, queries: int, links: Tensor | None = None) -> list[dict]:
    """
    One row for each sparse layer, over the last `queries` positions.

    `recall`: of the blocks that the layer's own queries rank highest, how many the full layer had selected. `missed_mass`: the
    probability that the layer would give to keys outside the selection if it read them all (mean over heads). `link_selected`:
    how often the block with the link that a query needs at each hop (`links`, `[batch, queries, hops]`) is selected for one group
    of heads at least.
    """
    config = trunk.config
    rows = []
    for layer, (query, key, _, block_indices) in recorded_reads(trunk, forward).items():
        weights = by_block(probabilities(query, key, config.head_dim**-0.5), config.sparse_block_size)[
            ..., -queries:, :, :
        ]
        selected = selection_mask(block_indices[:, :, -queries:], weights.shape[-2])
        scores = weights.amax(dim=(2, -1))
        best = scores.topk(min(config.topk_blocks, scores.shape[-1]))
        is_wanted = best.values > 0  # a block in the future is not
        hits = selected.gather(-1, best.indices) & is_wanted
        missed = 1 - (weights.sum(-1) * selected[:, :, None]).sum(-1)
        row = {
            "layer": layer,
            "distance": layer - config.kv_source_layers[layer],
            "recall": (hits.sum() / is_wanted.sum()).item(),
            "missed_mass": missed.mean().item(),
        }
        if links is not None:
            blocks = links.clamp(min=0) // config.sparse_block_size
            found = selected.any(dim=1).gather(-1, blocks)
            row["link_selected"] = [
                found[..., hop][links[..., hop] >= 0].float().mean().item() for hop in range(links.shape[-1])
            ]
        rows.append(row)
    return rows
