"""A small Llama that looks far back: trained here on Python source with records in it, and asked for their values at any distance."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mimo_hf.data import held_out_files, stdlib_code
from mimo_hf.hub.checkpoints import bundled

CONTEXT = 4096
KEYS, VALUES = 32, 16
RECORDS = 16  # in a text
ASKED = 256  # tokens at the end of a text among which the questions stand
CODE_TOKENS = 2_000_000


@dataclass(frozen=True)
class Stage:
    """
    Of the training.

    Attributes:
        share: of the tokens that are records, questions or answers.
        farthest: positions that a text is drawn apart, to see distances that it does not have; 0: none.
    """

    steps: int
    length: int
    rows: int
    learning_rate: float
    share: float
    farthest: int = 0


STAGES = (
    Stage(steps=300, length=96, rows=24, learning_rate=3e-3, share=0.7),
    Stage(steps=150, length=192, rows=12, learning_rate=3e-3, share=0.4, farthest=CONTEXT),
    Stage(steps=120, length=1024, rows=3, learning_rate=1e-3, share=0.15, farthest=CONTEXT),
    Stage(steps=80, length=CONTEXT, rows=1, learning_rate=1e-3, share=0.08),
)


class Texts:
    """
    Source text in which single tokens are replaced: a record is one token, for a key and its value; a question is one token, for a key;
    its value follows.

    Args:
        code: token ids of the source, `[tokens]`.
        first: the first id behind the source's vocabulary.
    """

    def __init__(self, code: torch.Tensor, first: int):
        self.code = code.numpy()
        self.record_ids, self.question_ids = first, first + KEYS * VALUES
        self.value_ids = self.question_ids + KEYS
        self.vocab_size = self.value_ids + VALUES

    def code_window(self, rng: np.random.Generator, length: int) -> np.ndarray:
        begin = rng.integers(len(self.code) - length)
        return self.code[begin : begin + length].copy()

    def training_row(self, rng: np.random.Generator, length: int, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Ids and kinds: 0 a token of the source, 1 a value that can be known, -1 what can't."""
        ids, kinds = self.code_window(rng, length), np.zeros(length, dtype=np.int64)
        keys, values = rng.choice(KEYS, RECORDS, replace=False), rng.integers(VALUES, size=RECORDS)
        places = 2 * np.sort(rng.choice(length // 2 - 1, max(RECORDS, int(length * share / 2)), replace=False))
        seen: list[int] = []
        todo = list(range(RECORDS))
        for place in places:
            if todo and (not seen or rng.random() < 0.5 * len(todo) / RECORDS + 0.1):
                seen.append(todo.pop())
                ids[place] = self.record_ids + keys[seen[-1]] * VALUES + values[seen[-1]]
            else:
                record = seen[rng.integers(len(seen))]
                ids[place], ids[place + 1] = self.question_ids + keys[record], self.value_ids + values[record]
                kinds[place + 1] = 1
            kinds[place] = -1
        return ids, kinds

    def test_row(self, rng: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids, and the places of questions: records in front, all asked for once among the last tokens."""
        ids = self.code_window(rng, length)
        keys, values = rng.choice(KEYS, RECORDS, replace=False), rng.integers(VALUES, size=RECORDS)
        # Behind the sink, and in front of what the questions' local area can reach.
        places = rng.choice(np.arange(32, length - ASKED - 256), RECORDS, replace=False)
        ids[places] = self.record_ids + keys * VALUES + values
        questions = length - ASKED + 2 * np.sort(rng.choice(ASKED // 2, RECORDS, replace=False))
        order = rng.permutation(RECORDS)
        ids[questions], ids[questions + 1] = self.question_ids + keys[order], self.value_ids + values[order]
        return ids, questions


@cache
def sources() -> tuple[Texts, Texts]:
    """Of the training files and of those held out."""
    tokenizer = AutoTokenizer.from_pretrained(bundled("mimo-v2-flash"))
    tokenizer.model_max_length = int(1e9)  # files are longer than that model's context, and cut into windows here
    ids: list[int] = []
    for row in stdlib_code("train"):
        ids += tokenizer(row["text"]).input_ids
        if len(ids) > CODE_TOKENS:
            break
    held_out = [token for path in held_out_files() for token in tokenizer(path.read_text(encoding="utf-8")).input_ids]
    return Texts(torch.tensor(ids), len(tokenizer)), Texts(torch.tensor(held_out), len(tokenizer))


def make_model(vocab_size: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=32, max_position_embeddings=CONTEXT, initializer_range=0.08, bos_token_id=None,
            eos_token_id=None, rope_parameters={"rope_type": "default", "rope_theta": 1e7},
        )
    )  # fmt: skip


def drawn_apart(rng: np.random.Generator, length: int, farthest: int) -> np.ndarray:
    """Positions `[length]` with up to five gaps, together at most `farthest`."""
    positions = np.arange(length)
    cuts = 2 * np.sort(rng.integers(1, length // 2, size=5))
    total = rng.integers(0, min(farthest, CONTEXT - length) + 1)
    for cut, gap in zip(cuts, rng.multinomial(total, np.full(5, 0.2)), strict=True):
        positions[cut:] += gap
    return positions


def train(
    model: LlamaForCausalLM, texts: Texts, stage: Stage, rng: np.random.Generator, told: Callable[[float], None]
):
    """`told`: gets the share of right values of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step in range(stage.steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / min(50, 1 + stage.steps // 4))
            group["lr"] = stage.learning_rate * warm * (1 - 0.9 * step / stage.steps)
        rows = [texts.training_row(rng, stage.length, stage.share) for _ in range(stage.rows)]
        ids, kinds = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
        # The distances grow as the stage goes on: a head that has found records near by finds them farther and farther away.
        farthest = (
            round(64 * (stage.farthest / 64) ** min(1.0, (step + 1) / (0.7 * stage.steps))) if stage.farthest else 0
        )
        positions = torch.from_numpy(np.stack([drawn_apart(rng, stage.length, farthest) for _ in rows]))
        # A mask, or transformers takes each gap for the start of another text.
        mask = torch.ones_like(ids)
        logits = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(ids[:, 1:])
        known = kinds[:, 1:] == 1
        (losses[kinds[:, 1:] == 0].mean() + losses[known].mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        told(float((logits.argmax(-1) == ids[:, 1:])[known].float().mean()))
    model.eval()
