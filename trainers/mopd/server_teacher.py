"""
A teacher behind HTTP: log-probabilities of given tokens from `mimo-hf teacher serve`, or from any server that speaks vLLM's protocol.

A request is POST /v1/completions with token ids and `prompt_logprobs`; entry p of the answer's `prompt_logprobs` belongs to token p
given all tokens before it, and entry 0 is null.
"""

import math
import queue
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .server_connection import Connection, Refused, TeacherError, shown

MOST_SEQUENCES, MOST_ENTRIES = 16, 200_000  # in one request; an entry is one log-probability, about 80 bytes of JSON
CLAMPED = -9999.0  # what vLLM writes for minus infinity, which JSON has no word for
PROBE = (1, 2, 3, 5, 8, 13, 21, 34)
_NO_TEACHER = "is this vLLM, or `mimo-hf teacher serve`, with nothing in between that drops fields?"
_NO_LOGITS = "it seems to give logits: start vLLM without --logprobs-mode, or with raw_logprobs."


class Scores(NamedTuple):
    """
    A teacher's view of one completion; each list has one entry for every token of it.

    Attributes:
        logps: log-probability of the token itself.
        top_ids, top_logps: the teacher's most probable tokens, the best first; empty lists where none were asked for. The token itself
            is among them only where it is one of these.
    """

    logps: list[float]
    top_ids: list[list[int]]
    top_logps: list[list[float]]


class ServerTeacher:
    """
    Asks a server for its model's log-probabilities.

    Args:
        url: `http://host:8000`; a path before /v1 may follow. `http://user:password@host` is sent as basic authentication and shown
            nowhere.
        model: the served name; needed where the server has several models.
        api_key: sent as a bearer token; the environment variable VLLM_API_KEY where none is given.
        timeout_s: of one request, from the first byte to the last.
        concurrency: requests in flight, at most.
        retries: further attempts after a 5xx, a 429, a broken connection or a time-out.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        concurrency: int = 4,
        retries: int = 4,
    ):
        self._connection = Connection(url, api_key, timeout_s, retries)
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ValueError(f"`concurrency` must be a whole number of at least 1; got {concurrency!r}.")
        self.url = self._connection.url
        self.model, self.concurrency = model, concurrency
        self._described: dict[str, Any] | None = None
        self._vocab_size: int | None = None

    def __repr__(self) -> str:
        return f"ServerTeacher({self.url!r}, model={self.model!r})"

    def describe(self) -> dict[str, Any]:
        """What a manifest keeps: kind, source, model, and what the server says of it. Asks /v1/models once."""
        if self._described is None:
            served = self._served()
            chosen = self._choose(served)
            self._described = {
                "kind": "server",
                "source": self.url,
                "model": chosen["id"],
                "root": chosen.get("root"),
                "max_model_len": chosen.get("max_model_len"),
            }
        return dict(self._described)

    def check(self, temperature: float = 1.0, top_k: int = 0, vocab_size: int | None = None) -> None:
        """
        Finds out before training whether the server can teach.

        Args:
            temperature, top_k: as `score` will be asked.
            vocab_size: of the student; its last token must be known to the server. From then on, `score` asks for no more tokens than
                there are.

        Raises:
            ValueError: for a temperature or `top_k` that no server could serve.
            TeacherError: where the server is not there, gives no or too few log-probabilities, gives logits instead, knows fewer tokens,
                or leaves the temperature out.
        """
        _check_request(temperature, top_k)
        self._vocab_size = vocab_size
        self.describe()
        probe = [token % (vocab_size or 16) for token in PROBE]
        raw = self.score([probe], [1], 1.0, max(top_k, 1))[0]
        if max(sum(map(math.exp, top)) for top in raw.top_logps) > 1.01:
            raise TeacherError(f"{self.url} gives probabilities that add up to more than one; {_NO_LOGITS}")
        if vocab_size is not None:
            try:
                self.score([[probe[0], vocab_size - 1]], [1], 1.0)
            except Refused as error:
                raise TeacherError(
                    f"{self.url} does not take token {vocab_size - 1}, the last one of the student's vocabulary of {vocab_size}; "
                    f"serve a teacher with the student's tokenizer. ({error})"
                ) from error
        if temperature != 1.0:
            self._check_temperature(probe, raw)

    def score(
        self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], temperature: float, top_k: int = 0
    ) -> list[Scores]:
        """
        Log-probabilities of the completions, in the order of `sequences`.

        Args:
            sequences: token ids of prompt and completion, without padding.
            prompt_lengths: of each sequence; at least 1, since nothing comes before the first token.
            temperature: divides the logits before the softmax.
            top_k: also the teacher's so many most probable tokens at every position.

        Raises:
            TeacherError: where a token has no finite log-probability, and whatever else goes wrong with the server.
        """
        _check_request(temperature, top_k)
        if len(sequences) != len(prompt_lengths):
            raise ValueError(
                f"`prompt_lengths` must have one entry for each of the {len(sequences)} sequences; got {len(prompt_lengths)}."
            )
        rows = [
            _Row(row, list(map(int, ids)), int(length))
            for row, (ids, length) in enumerate(zip(sequences, prompt_lengths, strict=True))
        ]
        for row in rows:
            if not 1 <= row.prompt_length <= len(row.ids):
                raise ValueError(
                    f"`prompt_lengths` must be from 1 to the sequence's length, {len(row.ids)}; got {row.prompt_length} in row {row.number}."
                )
        scores = [Scores([], [], []) for _ in rows]
        asked = [row for row in rows if row.prompt_length < len(row.ids)]
        if not asked:
            return scores
        model = self.describe()["model"]
        top_k = min(top_k, self._vocab_size or top_k)

        def ask(part: list[_Row], stop: threading.Event) -> None:
            body = {
                "model": model,
                "prompt": [row.ids for row in part],
                "max_tokens": 1,
                "temperature": temperature,
                "prompt_logprobs": max(top_k, 1),
            }
            where = f"row {part[0].number}" if len(part) == 1 else f"rows {part[0].number} to {part[-1].number}"
            answer = self._complete(body, where, stop)
            for row, choice in zip(part, self._choices(answer, len(part), where), strict=True):
                scores[row.number] = self._scores(row, choice, top_k)

        self._in_parallel(ask, _split(asked, top_k, self.concurrency))
        return scores

    # The server's models

    def _served(self) -> list[dict[str, Any]]:
        try:
            answer = self._connection.request("GET", "/v1/models", None, "asked for its models", threading.Event())
        except Refused as error:
            if self.model is not None and error.status in (404, 405):
                return [{"id": self.model}]
            raise
        served = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(served, list) or not all(
            isinstance(model, dict) and isinstance(model.get("id"), str) for model in served
        ):
            raise TeacherError(f"{self.url}/v1/models does not answer with a list of models; {_NO_TEACHER}")
        return served

    def _choose(self, served: list[dict[str, Any]]) -> dict[str, Any]:
        names = ", ".join(model["id"] for model in served) or "none"
        if self.model is not None:
            for model in served:
                if model["id"] == self.model:
                    return model
            raise TeacherError(f"{self.url} does not serve `model`={self.model!r}; it serves {names}.")
        # Several names of one model are fine; an adapter has the base model as its parent.
        roots = {(model.get("root") or model["id"], model.get("parent")) for model in served}
        if len(roots) != 1:
            raise TeacherError(f"{self.url} serves {names}; say which with ServerTeacher({self.url!r}, model=...).")
        return served[0]

    # Temperature

    def _check_temperature(self, probe: list[int], raw: Scores) -> None:
        """At temperature 2, the difference of two log-probabilities is half as large."""
        heated = self.score([probe], [1], 2.0, 1)[0]
        moved = max(abs(hot - cold) for hot, cold in zip(heated.logps, raw.logps, strict=True))
        gaps, hot_gaps = _gaps(raw), _gaps(heated)
        wide = [index for index, gap in enumerate(gaps) if gap > 0.2]
        wrong = sum(abs(hot_gaps[index] - gaps[index] / 2) for index in wide)
        if moved < 1e-3 or wrong > 0.2 * sum(gaps[index] for index in wide):
            raise TeacherError(
                f"{self.url} leaves the temperature out of `prompt_logprobs` (or applies it in a way of its own). vLLM does so with every "
                "--logprobs-mode, processed_logprobs too. Set the temperature to 1.0, or serve this teacher with "
                "`mimo-hf teacher serve PATH`, which applies it."
            )

    # Requests

    def _in_parallel(self, ask: Callable[[list["_Row"], threading.Event], None], parts: list[list["_Row"]]) -> None:
        """Threads are daemons that nobody waits for: after Ctrl-C, or once one part has failed, the others end by themselves."""
        waiting: queue.SimpleQueue[list[_Row]] = queue.SimpleQueue()
        for part in parts:
            waiting.put(part)
        results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    part = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    ask(part, stop)
                except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
                    results.put(error)
                    return
                results.put(None)

        for number in range(min(self.concurrency, len(parts))):
            threading.Thread(target=work, name=f"teacher-{number}", daemon=True).start()
        try:
            for _ in parts:
                if (error := results.get()) is not None:
                    raise error
        finally:
            stop.set()

    def _complete(self, body: dict[str, Any], where: str, stop: threading.Event) -> Any:
        try:
            return self._connection.request("POST", "/v1/completions", body, where, stop)
        except Refused as error:
            if re.search(r"logprobs.*max allowed", error.problem, re.IGNORECASE):
                remedy = f"Start the server with --max-logprobs {body['prompt_logprobs']}, or ask for fewer (`top_k`)."
            elif re.search(r"(context|model|maximum).{0,20}len|longer than|too long", error.problem, re.IGNORECASE):
                remedy = "Start the server with a greater --max-model-len (vLLM wants room for one token more), or shorten the sequences."
            else:
                raise
            raise Refused(error.problem, remedy, error.status) from None

    # Answers

    def _choices(self, answer: Any, count: int, where: str) -> list[dict[str, Any]]:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise TeacherError(f"{self.url} answers without choices ({where}); {_NO_TEACHER}")
        if len(choices) != count:
            raise TeacherError(
                f"{self.url} answers with {len(choices)} choices where {count} were asked for ({where}); {_NO_TEACHER}"
            )
        indices = [choice.get("index", place) for place, choice in enumerate(choices)]
        if sorted(map(repr, indices)) != sorted(map(repr, range(count))):
            raise TeacherError(f"{self.url} numbers its choices {indices} ({where}); {_NO_TEACHER}")
        return [choice for _, choice in sorted(zip(indices, choices, strict=True), key=lambda pair: pair[0])]

    def _scores(self, row: "_Row", choice: dict[str, Any], top_k: int) -> Scores:
        entries = choice.get("prompt_logprobs")
        if not isinstance(entries, list):
            raise TeacherError(f"{self.url} gives no prompt_logprobs (row {row.number}); {_NO_TEACHER}")
        if len(entries) != len(row.ids):
            raise TeacherError(
                f"{self.url} gives {len(entries)} prompt_logprobs for {len(row.ids)} tokens (row {row.number}); it must not add, cut or "
                "re-tokenise anything."
            )
        scores = Scores([], [], [])
        for position in range(row.prompt_length, len(row.ids)):
            token = row.ids[position]
            where = f"row {row.number}, position {position}, token {token}"
            entry = entries[position]
            if not isinstance(entry, dict):
                raise TeacherError(f"{self.url} gives {shown(entry)} for log-probabilities ({where}); {_NO_TEACHER}")
            try:
                logps = {int(key): self._logp(value, where) for key, value in entry.items()}
            except (TypeError, ValueError):
                raise TeacherError(
                    f"{self.url} does not name tokens by their ids ({where}): {shown(list(entry))}."
                ) from None
            if token not in logps:
                raise TeacherError(f"{self.url} gives no log-probability of the token itself ({where}); {_NO_TEACHER}")
            if len(logps) < top_k:
                raise TeacherError(
                    f"{self.url} gives {len(logps)} log-probabilities where {top_k} were asked for ({where}). Start the server with "
                    f"--max-logprobs {top_k}, or lower `top_k`."
                )
            top = sorted(logps, key=lambda other: -logps[other])[:top_k]
            scores.logps.append(logps[token])
            scores.top_ids.append(top)
            scores.top_logps.append([logps[other] for other in top])
        return scores

    def _logp(self, value: Any, where: str) -> float:
        logp = value.get("logprob") if isinstance(value, dict) else None
        if isinstance(logp, bool) or not isinstance(logp, int | float) or not logp > CLAMPED:
            meaning = " (its word for minus infinity)" if logp == CLAMPED else ""
            raise TeacherError(
                f"{self.url} gives the log-probability {shown(logp)}{meaning} ({where}), where a finite number must be. Does its model "
                "know this token, and do its weights give finite logits?"
            )
        if logp > 1e-3:
            raise TeacherError(f"{self.url} gives the log-probability {logp:g} ({where}), above 0; {_NO_LOGITS}")
        return float(logp)


class _Row(NamedTuple):
    number: int
    ids: list[int]
    prompt_length: int


def _check_request(temperature: float, top_k: int) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"`temperature` must be a number above 0; got {temperature!r}.")
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"`top_k` must be a whole number of at least 0; got {top_k!r}.")


def _split(rows: list[_Row], top_k: int, concurrency: int) -> list[list[_Row]]:
    """Parts of the rows in their order: enough for all connections, and none with too large an answer."""
    most = min(MOST_SEQUENCES, -(-len(rows) // concurrency))
    parts: list[list[_Row]] = []
    entries = 0
    for row in rows:
        more = len(row.ids) * (max(top_k, 1) + 1)
        if not parts or len(parts[-1]) == most or entries + more > MOST_ENTRIES:
            parts.append([])
            entries = 0
        parts[-1].append(row)
        entries += more
    return parts


def _gaps(scores: Scores) -> list[float]:
    """By how much the best token is more probable than the given one, in logarithms."""
    return [top[0] - logp for logp, top in zip(scores.logps, scores.top_logps, strict=True)]
