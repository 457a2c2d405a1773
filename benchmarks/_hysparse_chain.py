"""A model of the project's own classes on the chained-retrieval tasks of `mimo_hf.data`: inputs, training, accuracy, diagnostics."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _hysparse_oracle import oracle_diagnostics
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mimo_hf.modeling.hysparse import HySparseConfig, HySparseModel

IGNORED = -100
WARMUP_STEPS = 50
DECAY_SHARE = 0.3  # of the steps, at the end


class ChainModel(nn.Module):
    """
    HySparse over positions that each show a tag, a key and a value, read out after every layer.

    The channels of a position are summed: E[key], R E[value] with a fixed rotation R, its tag, and whether it is a link, filler
    or a query. Heads W_h read hop h as the symbol nearest to W_h norm(x) in the table E.
    """

    def __init__(self, config: HySparseConfig, tags: int, hops: int):
        super().__init__()
        self.trunk = HySparseModel(config)
        width = config.hidden_size
        self.tags = nn.Embedding(tags + 1, width)
        self.kinds = nn.Embedding(3, width)
        self.heads = nn.Linear(width, hops * width, bias=False)
        rotation = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)))[0]
        self.register_buffer("rotation", rotation)
        for table in (self.trunk.embed_tokens, self.tags, self.kinds):
            nn.init.normal_(table.weight, std=0.3)
        # A query is alike to keys that show what it shows, from the first step on.
        for layer in self.trunk.layers:
            attention = layer.self_attn
            if hasattr(attention, "k_proj"):
                heads = attention.q_proj.weight.data.view(-1, config.head_dim, width)
                groups = attention.k_proj.weight.data.view(-1, config.head_dim, width)
                groups.copy_(heads[:: len(heads) // len(groups)])

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        symbols = self.trunk.embed_tokens.weight
        key, value = batch["key"], batch["value"]
        shown_key = symbols[key.clamp(min=0)] * (key >= 0)[..., None]
        shown_value = symbols[value.clamp(min=0)] @ self.rotation * (value >= 0)[..., None]
        kind = (key < 0).long() + 2 * ((key >= 0) & (value < 0)).long()
        return shown_key + shown_value + self.tags(batch["tag"] + 1) + self.kinds(kind)

    def forward(self, batch: dict[str, Tensor], all_layers: bool = True) -> Tensor:
        """Logits at the queries, `[layers or 1, batch, queries, hops, symbols]`, of the last layer first."""
        outputs = self.trunk(inputs_embeds=self.inputs(batch), use_cache=False, output_hidden_states=all_layers)
        queries = batch["labels"].shape[1]
        states = outputs.last_hidden_state[None, :, -queries:]
        if all_layers:
            earlier = [self.trunk.norm(state[:, -queries:]) for state in outputs.hidden_states[1:-1]]
            states = torch.cat([states, torch.stack(earlier)])
        read = self.heads(states).unflatten(-1, (-1, states.shape[-1]))
        return read @ self.trunk.embed_tokens.weight.T


def batches(rows: dict[str, Tensor], batch_size: int) -> Iterator[dict[str, Tensor]]:
    for first in range(0, len(rows["tag"]), batch_size):
        yield {name: values[first : first + batch_size] for name, values in rows.items()}


def tensors(dataset) -> dict[str, Tensor]:
    """A data set of `mimo_hf.data.tagged_chain`; labels and links of the queries only."""
    columns = {}
    for name in dataset.column_names:
        values, shape = dataset.data.column(name).combine_chunks(), [len(dataset)]
        while hasattr(values, "flatten") and values.type.num_fields:
            shape.append(len(values.flatten()) // len(values))
            values = values.flatten()
        columns[name] = torch.tensor(values.to_numpy()).view(shape).long()
    first_query = int((columns["labels"][0, :, 0] != IGNORED).nonzero()[0])
    for name in ("labels", "links"):
        columns[name] = columns[name][:, first_query:]
    return columns


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the last layer plus the mean one of the same read-out after every layer before it."""
    by_layer = [cross_entropy(layer.flatten(0, -2), labels.flatten(), ignore_index=IGNORED) for layer in logits]
    return by_layer[0] + sum(by_layer[1:]) / max(len(by_layer) - 1, 1)


def learning_rate_at(step: int, steps: int) -> float:
    """Share of the peak: linear warm-up, a plateau, and a linear decay over the last part."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (DECAY_SHARE * steps))


def train(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    data: Iterator,
    steps: int,
    learning_rate: float,
) -> list[float]:
    """
    AdamW (0.9, 0.98), weight decay 0.01, gradients cut at 1. Returns the loss at every twentieth of the way.

    Raises:
        FloatingPointError: the loss is not a number any more.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_at(step, steps))
    history = []
    model.train()
    for step in range(steps):
        value = loss(next(data))
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % max(steps // 20, 1) == 0:
            history.append(round(value.item(), 4))
            if not math.isfinite(history[-1]):
                raise FloatingPointError(f"loss {history[-1]} at step {step + 1}")
    return history


@torch.no_grad()
def accuracy(model: ChainModel, rows: dict[str, Tensor], batch_size: int = 64) -> list[float]:
    """Share of right answers at each hop."""
    model.eval()
    right: Tensor | int = 0
    asked: Tensor | int = 0
    for batch in batches(rows, batch_size):
        answers = model(batch, all_layers=False)[0].argmax(-1)
        labels = batch["labels"]
        right = right + (answers == labels).sum((0, 1))
        asked = asked + (labels != IGNORED).sum((0, 1))
    return (right / asked).tolist()


def run_chain(model: ChainModel, train_rows, test_rows, *, steps: int, batch_size: int, learning_rate: float) -> dict:
    """Trains a model on rows that it sees once each. Returns what is on record of the run."""
    started = time.process_time()
    losses = train(
        model,
        lambda batch: loss_of(model(batch), batch["labels"]),
        batches(train_rows, batch_size),
        steps,
        learning_rate,
    )
    found = {
        "accuracy": [round(share, 5) for share in accuracy(model, test_rows)],
        "losses": losses,
        "cpu_s": round(time.process_time() - started, 1),
    }
    batch = next(batches(test_rows, 64))
    links = batch["links"]
    rows = oracle_diagnostics(model.trunk, lambda: model(batch, all_layers=False), links.shape[1], links)
    return {**found, "oracle": rows} if rows else found


def with_topk(model: ChainModel, topk_tokens: int) -> ChainModel:
    """The same weights with another number of selected tokens."""
    config = copy.deepcopy(model.trunk.config)
    config.sparse_topk_tokens = topk_tokens
    twin = ChainModel(config, model.tags.num_embeddings - 1, model.heads.out_features // config.hidden_size)
    twin.load_state_dict(model.state_dict())
    return twin
