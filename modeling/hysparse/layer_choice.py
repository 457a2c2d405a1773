"""
Which layers of a dense model should stay full: those whose selection of blocks serves the layers after them best.

After Kascade (arXiv 2512.16391), which chooses its anchor layers by the agreement of layers on a development set and dynamic
programming. Here the agreement is between blocks, and head group by head group, as HySparse (arXiv 2602.03560) shares them.
"""

from collections.abc import Iterable

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .block_selection import Selection
from .row_layout import Rows

NAME = "hysparse_agreement"
QUERIES = 256  # compared at once


def choose_full_layers(
    model: PreTrainedModel,
    batches: Iterable[torch.Tensor],
    num_full: int,
    *,
    sparse_block_size: int = 64,
    sparse_topk_tokens: int = 1024,
    last_is_full: bool = True,
) -> list[int]:
    """
    The full layers with the greatest agreement, for `convert_dense(full_layers=...)`.

    Args:
        model, batches, sparse_block_size, sparse_topk_tokens: as in `layer_agreement`.
        num_full, last_is_full: as in `best_full_layers`.

    Returns:
        `num_full` layers in their order.

    Raises:
        ValueError: as the two functions do.
    """
    agreement = layer_agreement(
        model, batches, sparse_block_size=sparse_block_size, sparse_topk_tokens=sparse_topk_tokens
    )
    return best_full_layers(agreement, num_full, last_is_full=last_is_full)


@torch.no_grad()
def layer_agreement(
    model: PreTrainedModel,
    batches: Iterable[torch.Tensor],
    *,
    sparse_block_size: int = 64,
    sparse_topk_tokens: int = 1024,
) -> torch.Tensor:
    r"""
    How much of a layer's attention lies in the blocks that a layer before it selects.

    Layer i selects blocks for each query and group of heads as HySparse's full layers do. Entry (i, j) is the share of layer
    j's attention, of the heads in the same group, in these blocks: $\frac{1}{|h|}\sum_h\sum_{b \in I_i} P_j^h(b)$, the mean
    over groups, rows and queries with more blocks to choose from than are selected.

    Args:
        model: dense, with the whole context in every layer.
        batches: token ids, `[batch, length]`, without padding.

    Returns:
        `[layers, layers]`, float64; 0 below the diagonal.

    Raises:
        ValueError: no row is so long that there is something to select, or `sparse_topk_tokens` is not made of whole blocks.
    """
    block, topk = sparse_block_size, sparse_topk_tokens
    if block < 1 or topk < block or topk % block:
        raise ValueError(
            f"`sparse_topk_tokens={topk}` must be a positive multiple of `sparse_block_size={block}`: whole blocks are "
            "selected."
        )
    recorder = _AgreementRecorder(model.config.num_hidden_layers, block, topk // block)
    implementation = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[NAME], ALL_MASK_ATTENTION_FUNCTIONS[NAME] = recorder.attend, sdpa_mask
    model.config._attn_implementation = NAME
    try:
        for input_ids in batches:
            recorder.selections = []
            model(input_ids=input_ids.to(model.device), use_cache=False)
    finally:
        model.config._attn_implementation = implementation
        del ALL_ATTENTION_FUNCTIONS[NAME], ALL_MASK_ATTENTION_FUNCTIONS[NAME]
    if recorder.num_queries == 0:
        raise ValueError(
            f"`batches` must have a row longer than `sparse_topk_tokens={topk}`; got none, so every layer would select all "
            "blocks. Pass longer rows, or lower it."
        )
    return recorder.shares / recorder.num_queries


class _AgreementRecorder:
    """An attention function that compares each layer with those before it."""

    def __init__(self, num_layers: int, block_size: int, topk: int):
        self.selection = Selection(block_size, topk)
        self.selections: list[torch.Tensor] = []  # of the layers so far, [batch, key_value_heads, queries, topk]
        self.shares = torch.zeros(num_layers, num_layers, dtype=torch.float64)
        self.num_queries = 0

    def attend(self, module, query, key, value, attention_mask, scaling, **kwargs):
        """As transformers' `"sdpa"`."""
        layer, length = len(self.selections), query.shape[2]
        free = self.selection.topk * self.selection.block_size  # queries of which every block is selected
        chosen = []
        for begin in range(0, length, QUERIES):
            end = min(begin + QUERIES, length)
            blocks, shares = self._blocks_and_shares(query[:, :, begin:end], key[:, :, :end], scaling, begin)
            chosen.append(blocks)
            contested = slice(max(free - begin, 0), None)
            for i, selected in enumerate([*(earlier[:, :, begin:end] for earlier in self.selections), blocks]):
                found = shares[:, :, contested].gather(-1, selected[:, :, contested].long())
                self.shares[i, layer] += found.double().sum(-1).mean(1).sum().cpu()
        self.selections.append(torch.cat(chosen, dim=2))
        if layer == 0:
            self.num_queries += query.shape[0] * max(length - free, 0)
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    def _blocks_and_shares(self, query, key, scaling: float, q_offset: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What a full layer selects, and the attention in each block, `[batch, key_value_heads, queries, blocks]`."""
        stacked = query.unflatten(1, (key.shape[1], -1)).float()  # [batch, key_value_heads, group, queries, head_dim]
        logits = torch.matmul(stacked, key[:, :, None].float().transpose(-1, -2)) * scaling
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(q_offset + 1)
        logits = logits.masked_fill(future, float("-inf"))
        weights = logits.softmax(dim=-1).mean(dim=2)
        block_size = self.selection.block_size
        shares = pad(weights, (0, -weights.shape[-1] % block_size)).unflatten(-1, (-1, block_size)).sum(dim=-1)
        return self.selection.blocks(logits, Rows(q_offset=q_offset)), shares


def best_full_layers(agreement: torch.Tensor, num_full: int, *, last_is_full: bool = True) -> list[int]:
    r"""
    The layers that maximise $\sum_j agreement[source(j), j]$ over the sparse layers j, by dynamic programming.

    Args:
        agreement: `[layers, layers]`; source(j) is the last full layer before j.
        num_full: how many layers are full; layer 0 is one of them.
        last_is_full: keep the last layer full too, as HySparse's own layout does.

    Raises:
        ValueError: there is no such choice.
    """
    num_layers = len(agreement)
    least = 2 if last_is_full and num_layers > 1 else 1
    if not least <= num_full <= num_layers:
        raise ValueError(
            f"`num_full` must lie between {least} and {num_layers}, the number of layers, with `last_is_full={last_is_full}`; "
            f"got {num_full}."
        )
    scores = agreement.tolist()
    end, segments = (num_layers - 1, num_full - 1) if last_is_full else (num_layers, num_full)
    # For each layer that may be the next full one, the greatest total before it, and the full layers that give it.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for _ in range(segments):
        extended: dict[int, tuple[float, list[int]]] = {}
        for source, (total, full) in best.items():
            for following in range(source + 1, end + 1):
                if following not in extended or total > extended[following][0]:
                    extended[following] = (total, [*full, source])
                if following < end:
                    total += scores[source][following]
        best = extended
    return best[end][1] + ([end] if last_is_full else [])


__all__ = ["best_full_layers", "choose_full_layers", "layer_agreement"]
