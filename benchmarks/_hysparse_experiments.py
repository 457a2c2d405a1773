"""What the HySparse study compares: tasks, shapes and training of each experiment, and what may not be concluded from it."""

from dataclasses import dataclass

import torch
from _hysparse_arms import ABLATIONS, MAIN_ARMS, arm_config
from _hysparse_chain import ChainModel, tensors
from _hysparse_text import initialised
from torch import nn

from mimo_hf.data import relayed_chain, tagged_chain
from mimo_hf.modeling.hysparse import HySparseConfig

LIMITS = (
    "small models, a few seeds: a check of the mechanism, no evidence about language models, their size, or speed",
)
OF_CHAINS = (
    "a task made by hand, and made to be learnable in minutes",
    "all links that a query needs carry its tag, so the first layer can find them before it knows the chain",
    "nothing here says that an arm can not learn a hop, only that it had not after these steps",
)


@dataclass(frozen=True)
class Experiment:
    """A task, the shape that all arms share, and how they are trained."""

    summary: str
    task: dict
    shape: dict
    arms: tuple[str, ...] = MAIN_ARMS
    width: int = 128
    steps: int = 600
    batch_size: int = 16
    test_rows: int = 512
    learning_rates: tuple[float, ...] = (4e-3, 8e-3)
    rates_of: str = ""  # another experiment, whose tuned rates are used here
    builder: str = "tagged_chain"  # of the rows, or "text"
    fillers: tuple[int, ...] = ()  # also tested in contexts with so much filler,
    topk_tokens: tuple[int, ...] = ()  # and with so many selected tokens
    limits: tuple[str, ...] = ()  # of what may be concluded

    def rows(self, num_rows: int, seed: int, **changes: int) -> dict[str, torch.Tensor]:
        build = {"tagged_chain": tagged_chain, "relayed_chain": relayed_chain}[self.builder]
        return tensors(build(num_rows, seed=seed, **{**self.task, **changes}))

    @property
    def vocab_size(self) -> int:
        return 256 if self.builder == "text" else self.task.get("symbols", self.task["cycle"])

    def config(self, arm: str, width: int) -> HySparseConfig:
        return arm_config(arm, {"vocab_size": self.vocab_size, **self.shape}, width)

    def build(self, config: HySparseConfig) -> nn.Module:
        if self.builder == "text":
            return initialised(config)
        return ChainModel(config, self.task["tags"], self.task["hops"] + (self.builder == "relayed_chain"))


SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "sliding_window": 4,
    "sparse_block_size": 2,
    "sparse_topk_tokens": 16,
    "sparse_layers_per_full": 3,
    "rope_theta": 1e6,
    "initializer_range": 0.07,
    "attn_implementation": "eager",  # the quickest for short rows; it computes what the default does
}
LONGER = {**SHAPE, "num_hidden_layers": 5, "sliding_window": 8, "sparse_block_size": 4, "sparse_topk_tokens": 32}

EXPERIMENTS = {
    "chain": Experiment(
        "three hops along a tag's links, 64 positions; four layers, the first and the last full",
        task={"tags": 5, "cycle": 7, "symbols": 14, "queries": 29, "hops": 3},
        shape=SHAPE,
        arms=MAIN_ARMS + ABLATIONS,
        limits=(
            *OF_CHAINS,
            "two full layers may do three hops: the first can join two links at the later one's position",
            "nothing is local in this task: it can not show what the window branch is for",
            "most tuned rates are the larger of the two tried",
            "a part of the runs used the attention hysparse_chunked, which computes the same",
        ),
    ),
    "chain_4": Experiment(
        "four hops, 64 positions; four layers, the first and the last full: one hop more than two full layers can compose, even "
        "where the first joins links to pairs",
        task={"tags": 4, "cycle": 9, "symbols": 18, "queries": 28, "hops": 4},
        shape={**SHAPE, "sparse_topk_tokens": 18},
        arms=(*MAIN_ARMS, "random_blocks", "recent_blocks"),
        steps=800,
        rates_of="chain",
        limits=(*OF_CHAINS, "learning rates are those tuned on three hops"),
    ),
    "chain_128": Experiment(
        "three hops, 128 positions; five layers, the first and the last full",
        task={"tags": 10, "cycle": 8, "symbols": 16, "queries": 48, "hops": 3},
        shape=LONGER,
        steps=900,
        test_rows=256,
        rates_of="chain",
        limits=(
            *OF_CHAINS,
            "learning rates are those tuned at 64 positions; steps are few, so it compares speed of learning",
        ),
    ),
    "chain_256": Experiment(
        "three hops, 256 positions; five layers, the first and the last full",
        task={"tags": 20, "cycle": 8, "symbols": 16, "queries": 96, "hops": 3},
        shape={**LONGER, "sparse_topk_tokens": 64},
        steps=900,
        batch_size=8,
        test_rows=128,
        rates_of="chain",
        limits=(
            *OF_CHAINS,
            "learning rates are those tuned at 64 positions; steps are few, so it compares speed of learning",
        ),
    ),
    "relay": Experiment(
        "a hop, and one more from where the neighbouring query's hop led, 64 positions: made so that what a first global look "
        "finds must be carried locally before a second one",
        task={"tags": 5, "cycle": 7, "queries": 29, "hops": 1},
        shape=SHAPE,
        arms=(*MAIN_ARMS, "no_swa_branch", "swa_shares_kv"),
        builder="relayed_chain",
        steps=800,
        limits=(
            *OF_CHAINS,
            "the task was made so that the ablated layers lack what it needs; how often language needs it is another question",
        ),
    ),
    "needle": Experiment(
        "three hops along seven needles of a tag, 128 positions, most of them filler or other tags' needles; tested in longer "
        "contexts and with other numbers of selected tokens than in training",
        task={"tags": 3, "cycle": 7, "symbols": 14, "queries": 20, "hops": 3, "filler": 87},
        shape={**LONGER, "sparse_topk_tokens": 32},
        test_rows=64,
        fillers=(87, 215, 471, 983),
        topk_tokens=(8, 16, 32, 64),
        rates_of="chain",
        limits=(*OF_CHAINS, "numbers of selected tokens other than 32 were not trained, only tested"),
    ),
    "text": Experiment(
        "bits a byte on held-out files of Python's standard library; five layers, the first and the last full",
        task={"length": 256},
        shape={**LONGER, "sliding_window": 16, "sparse_block_size": 8, "sparse_topk_tokens": 64},
        builder="text",
        steps=400,
        batch_size=8,
        test_rows=128,
        limits=("a few minutes of training in contexts of 256 bytes: far from where sparse attention matters",),
    ),
}
