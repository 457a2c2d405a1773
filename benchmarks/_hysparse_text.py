"""Language modelling on the bytes of Python's standard library, for the HySparse study."""

import math
import time

import numpy as np
import torch
from _hysparse_chain import train
from torch import Tensor
from torch.nn.functional import cross_entropy

from mimo_hf.data import stdlib_code
from mimo_hf.modeling.hysparse import HySparseConfig, HySparseForCausalLM


def text_rows(split: str, num_rows: int, length: int, seed: int) -> Tensor:
    """Pieces of the split from random places, `[num_rows, length]`; a token is a byte."""
    text = np.frombuffer("\n".join(stdlib_code(split)["text"]).encode(), dtype=np.uint8)
    first = np.random.default_rng(seed).integers(len(text) - length, size=num_rows)
    return torch.from_numpy(text[first[:, None] + np.arange(length)].astype(np.int64))


def initialised(config: HySparseConfig) -> HySparseForCausalLM:
    model = HySparseForCausalLM(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    return model


def bits(model: HySparseForCausalLM, ids: Tensor) -> Tensor:
    """Of each byte but the first ones, `[batch, length - 1]`."""
    logits = model(ids, use_cache=False).logits[:, :-1]
    return cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") / math.log(2)


def run_text(
    model: HySparseForCausalLM,
    train_rows: Tensor,
    test_rows: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> dict:
    """Trains a model on rows that it sees once each. Returns what is on record of the run."""
    started = time.process_time()
    data = iter(train_rows.split(batch_size))
    losses = train(model, lambda ids: bits(model, ids).mean() * math.log(2), data, steps, learning_rate)
    model.eval()
    with torch.no_grad():
        found = torch.cat([bits(model, ids) for ids in test_rows.split(16)])
    return {
        "bits_a_byte": round(found.mean().item(), 4),
        "bits_a_byte_second_half": round(found[:, found.shape[1] // 2 :].mean().item(), 4),
        "losses": losses,
        "cpu_s": round(time.process_time() - started, 1),
    }
