"""Scores token sequences with one model and one thread: requests that wait are put together, and no batch of logits is ever whole."""

import copy
import queue
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

import torch

MOST_LOGITS = 2**25  # at once, in float32: 128 MiB
CACHED_LOGITS = 2**20  # that a CPU reads several times without fetching them again


@dataclass
class Position:
    """What the model says of one token: its own log-probability and rank, and the most probable tokens."""

    token: int
    logp: float
    rank: int
    top_ids: list[int]
    top_logps: list[float]


@dataclass
class Sequence:
    """
    One sequence to score.

    Attributes:
        ids: its tokens.
        top_k: how many most probable tokens to name at every position; None: score nothing.
        temperature: divides the logits; 0: the best token is generated, and log-probabilities are those of temperature 1.
        generate: also choose the token that comes next.
        seed: of that choice.
        result: (one `Position` for every token but the first, the next token or None).
    """

    ids: list[int]
    top_k: int | None
    temperature: float = 1.0
    generate: bool = False
    seed: int | None = None
    result: Future[tuple[list[Position], int | None]] = field(default_factory=Future)


class TeacherEngine:
    """
    Owns the model while it is open.

    Args:
        model: a causal language model of transformers, with or without PEFT's adapters.
        max_batch_tokens: of a batch with its padding; a longer sequence is a batch of its own.

    Raises:
        ValueError: for a model whose trunk and head can't be told apart.
    """

    def __init__(self, model: Any, max_batch_tokens: int = 8192):
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if getattr(model, "base_model", model) is model or model.get_output_embeddings() is None:
            raise ValueError(
                f"`model` must be a causal language model of transformers with a trunk and a head; got {type(model).__name__}."
            )
        self.model = model
        self.vocab_size = min(
            model.get_input_embeddings().weight.shape[0], model.get_output_embeddings().weight.shape[0]
        )
        self.max_length: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.waiting = 0
        self._max_batch_tokens = max_batch_tokens
        self._was_training = model.training
        self._queue: queue.SimpleQueue[Sequence | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        model.eval()
        self._thread = threading.Thread(target=self._work, name="teacher-engine", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        with self._lock:
            if self._is_closed:
                raise CancelledError
            self.waiting += 1
            self._queue.put(sequence)

    def close(self) -> None:
        """After the batch that is running; what still waits is cancelled."""
        with self._lock:
            self._is_closed = True
            self._queue.put(None)
        self._thread.join()
        self.model.train(self._was_training)

    def _work(self) -> None:
        while not self._is_closed:
            sequences = [self._queue.get()]
            while not self._queue.empty():
                sequences.append(self._queue.get())
            for batch in batches([sequence for sequence in sequences if sequence is not None], self._max_batch_tokens):
                if self._is_closed:
                    self._finish(batch, None)
                else:
                    self._run(batch)
        while not self._queue.empty():
            sequence = self._queue.get()
            if sequence is not None:
                self._finish([sequence], None)

    def _run(self, batch: list[Sequence]) -> None:
        try:
            results = score(self.model, batch)
        except Exception as error:  # noqa: BLE001  it belongs to those who wait for an answer
            self._finish(batch, error)
            return
        for sequence, result in zip(batch, results, strict=True):
            self._finish([sequence], result)

    def _finish(self, batch: list[Sequence], outcome: Any) -> None:
        with self._lock:
            self.waiting -= len(batch)
        for sequence in batch:
            if outcome is None:
                sequence.result.cancel()
            elif isinstance(outcome, Exception):
                sequence.result.set_exception(outcome)
            else:
                sequence.result.set_result(outcome)


def batches(sequences: list[Sequence], max_tokens: int) -> Iterator[list[Sequence]]:
    """Sequences of similar lengths, with no more than `max_tokens` tokens and padding together."""
    batch: list[Sequence] = []
    for sequence in sorted(sequences, key=lambda sequence: len(sequence.ids)):
        if batch and (len(batch) + 1) * len(sequence.ids) > max_tokens:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


@torch.inference_mode()
def score(model: Any, batch: list[Sequence]) -> list[tuple[list[Position], int | None]]:
    """The results of the sequences, from one pass with padding on the right."""
    device = model.get_input_embeddings().weight.device
    longest = max(len(sequence.ids) for sequence in batch)
    padded = [sequence.ids + [0] * (longest - len(sequence.ids)) for sequence in batch]
    lengths = torch.tensor([len(sequence.ids) for sequence in batch], device=device)
    outputs = model.base_model(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=(torch.arange(longest, device=device) < lengths[:, None]).long(),
        use_cache=False,
        return_dict=True,
    )

    # (row, place, the token that comes next, or None where it is to be generated)
    wanted: list[tuple[int, int, int | None]] = []
    for row, sequence in enumerate(batch):
        if sequence.top_k is not None:
            wanted += [(row, place, token) for place, token in enumerate(sequence.ids[1:])]
        if sequence.generate:
            wanted.append((row, len(sequence.ids) - 1, None))

    results: list[tuple[list[Position], int | None]] = [([], None) for _ in batch]
    step = max(1, MOST_LOGITS // model.get_output_embeddings().weight.shape[0])
    for begin in range(0, len(wanted), step):
        part = wanted[begin : begin + step]
        rows = torch.tensor([row for row, _, _ in part], device=outputs.last_hidden_state.device)
        places = torch.tensor([place for _, place, _ in part], device=rows.device)
        logits = head(model, outputs, outputs.last_hidden_state[rows, places])
        temperatures = [batch[row].temperature or 1.0 for row, _, _ in part]
        if any(temperature != 1.0 for temperature in temperatures):
            logits /= torch.tensor(temperatures, device=logits.device)[:, None]
        rows_at_once = max(1, CACHED_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else len(part)
        for first in range(0, len(part), rows_at_once):
            some = slice(first, first + rows_at_once)
            _read(logits[some], part[some], batch, results)
    return results


def _read(
    logits: torch.Tensor, part: list[tuple[int, int, int | None]], batch: list[Sequence], results: list[Any]
) -> None:
    """Writes what the logits [positions, vocabulary] of `part` say into the results of its rows."""
    given = torch.tensor([0 if token is None else token for _, _, token in part], device=logits.device)
    own = logits.gather(1, given[:, None])
    ranks = (logits >= own).sum(1, dtype=torch.int32).tolist()
    total = logits.logsumexp(1, keepdim=True)
    if not total.isfinite().all():
        raise ArithmeticError("the model's logits are not numbers (NaN); load it with --dtype float32 or bfloat16")
    logps = (own - total).squeeze(1).tolist()
    most = max(batch[row].top_k or 0 for row, _, _ in part)
    values, indices = logits.topk(min(most, logits.shape[1]), dim=1)
    top_ids, top_logps = indices.tolist(), (values - total).tolist()
    for index, (row, _, token) in enumerate(part):
        sequence = batch[row]
        positions, _ = results[row]
        if token is None:
            results[row] = positions, choose(logits[index], sequence)
        else:
            k = sequence.top_k or 0
            positions.append(Position(token, logps[index], ranks[index], top_ids[index][:k], top_logps[index][:k]))


def head(model: Any, outputs: Any, states: torch.Tensor) -> torch.Tensor:
    """
    The logits, [positions, vocabulary] in float32, that the model makes of its trunk's last states, [positions, hidden].

    The model's own forward makes them, with its scales and caps, in a shallow copy whose trunk answers with these states: others may
    use the model meanwhile.
    """
    answer = copy.copy(outputs)
    answer.last_hidden_state = states[None].to(model.get_output_embeddings().weight.device)
    trunk, shell = copy.copy(model.base_model), copy.copy(model)
    vars(trunk).update(forward=lambda *arguments, **options: answer, _forward_hooks={}, _forward_pre_hooks={})
    vars(shell)["_modules"] = {**model._modules, model.base_model_prefix: trunk}
    token = torch.zeros(1, 1, dtype=torch.long, device=states.device)
    # Of the class: on the model itself, accelerate or TRL may have put another one.
    return type(model).forward(shell, input_ids=token, use_cache=False, return_dict=True).logits[0].float()


def choose(logits: torch.Tensor, sequence: Sequence) -> int:
    if sequence.temperature == 0:
        return int(logits.argmax())
    # Never the global generator: a training may run in this process.
    seed = secrets.randbits(63) if sequence.seed is None else sequence.seed
    generator = torch.Generator(logits.device).manual_seed(seed)
    return int(torch.multinomial(logits.softmax(0), 1, generator=generator))
