"""
A small server of one model's log-probabilities, in the protocol of vLLM's OpenAI server: for machines without vLLM.

What it answers: GET /health, GET /v1/models, POST /v1/completions with `prompt_logprobs` and at most one generated token. Other
than vLLM's, its `prompt_logprobs` follow the temperature.
"""

import contextlib
import hmac
import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .teacher_engine import Position, Sequence, TeacherEngine

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20  # of a request
MOST_PROMPTS, MOST_ENTRIES = 1024, 4_000_000  # in one request; an entry is one log-probability of the answer
MOST_WAITING = 8192  # sequences
CLAMPED = -9999.0  # JSON has no word for minus infinity; vLLM writes this
SECONDS_FOR_A_REQUEST = 60  # to arrive
# What would change the answer, by the value that changes nothing; these fields of vLLM are refused, unknown ones are not looked at.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "stream": (False,), "echo": (False,), "logprobs": (), "suffix": ("",), "use_beam_search": (False,),
    "top_p": (1,), "top_k": (0, -1), "min_p": (0,), "frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,),
    "logit_bias": ({},), "allowed_token_ids": (), "bad_words": ([],), "min_tokens": (0,), "truncate_prompt_tokens": (),
    "prompt_embeds": (), "logprob_token_ids": (), "structured_outputs": (), "response_format": ({"type": "text"},),
}  # fmt: skip


class RequestError(Exception):
    """What is answered to a request that can't be served."""

    def __init__(self, status: int, message: str, field: str | None = None):
        super().__init__(message)
        self.status, self.field = status, field


class TeacherServer:
    """
    Serves until it is closed.

    Args:
        model, max_batch_tokens: as of `TeacherEngine`.
        tokenizer: decodes tokens in the answers and reads prompts that are text; without one, prompts must be token ids.
        host, port: where to listen; port 0 is any free one.
        name: the served name of the model.
        max_logprobs: as of vLLM: how many tokens a position may name; -1: all.
        api_key: clients must send it as a bearer token; the environment variable VLLM_API_KEY where none is given.

    Raises:
        OSError: where the address is taken or not this machine's.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str | None = None,
        max_batch_tokens: int = 8192,
        max_logprobs: int = 64,
        api_key: str | None = None,
    ):
        self.source = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
        self.name = name or self.source
        self.max_logprobs = max_logprobs
        self.api_key = os.environ.get("VLLM_API_KEY", "").strip() if api_key is None else api_key
        self.tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self._tokenizer_lock = threading.Lock()
        self.created = int(time.time())
        self._http = _HTTPServer((host, port), type("Handler", (_Handler,), {"teacher": self}))
        try:
            self.engine = TeacherEngine(model, max_batch_tokens)
        except BaseException:
            self._http.server_close()
            raise
        shown_host = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown_host}:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), name="teacher-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening, lets the batch that runs end, answers 503 to those who wait, and hangs up."""
        self._http.shutdown()
        self._http.server_close()
        self._http.take_no_more()
        self.engine.close()

    # What is answered

    def models(self) -> dict[str, Any]:
        card = {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "mimo_hf",
            "root": self.source,
        }
        return {
            "object": "list",
            "data": [card | {"parent": None, "max_model_len": self.engine.max_length, "permission": []}],
        }

    def complete(self, body: Any) -> dict[str, Any]:
        """The answer to POST /v1/completions."""
        sequences = self._sequences(body)
        if self.engine.waiting + len(sequences) > MOST_WAITING:
            raise RequestError(503, f"more than {MOST_WAITING} sequences wait already; ask again later")
        try:
            for sequence in sequences:
                self.engine.submit(sequence)
            results = [sequence.result.result() for sequence in sequences]
        except CancelledError:
            raise RequestError(503, "the server is going down") from None
        choices = [self._choice(index, *result) for index, result in enumerate(results)]
        if sequences[0].top_k is None:
            choices = [choice | {"prompt_logprobs": None} for choice in choices]
        prompt_tokens, new_tokens = (
            sum(len(sequence.ids) for sequence in sequences),
            sum(sequence.generate for sequence in sequences),
        )
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": new_tokens,
            "total_tokens": prompt_tokens + new_tokens,
        }
        return {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": choices,
            "usage": usage | {"prompt_tokens_details": None},
        }

    def _choice(self, index: int, positions: list[Position], token: int | None) -> dict[str, Any]:
        is_end = token is not None and self.tokenizer is not None and token == self.tokenizer.eos_token_id
        return {
            "index": index,
            "text": "" if token is None or is_end else self._text(token) or "",
            "logprobs": None,
            "finish_reason": "stop" if is_end else "length",
            "stop_reason": None,
            "prompt_logprobs": [None, *map(self._entry, positions)],
            "token_ids": None if token is None else [token],
        }

    def _entry(self, position: Position) -> dict[str, Any]:
        found = {position.token: (position.logp, position.rank)}
        best = zip(position.top_ids, position.top_logps, strict=True)
        found |= {token: (logp, rank) for rank, (token, logp) in enumerate(best, 1)}
        return {
            str(token): {
                "logprob": CLAMPED if logp == -math.inf else logp,
                "rank": rank,
                "decoded_token": self._text(token),
            }
            for token, (logp, rank) in found.items()
        }

    def _text(self, token: int) -> str | None:
        if self.tokenizer is None:
            return None
        if token not in self._texts:
            with self._tokenizer_lock:
                self._texts[token] = self.tokenizer.decode([token])
        return self._texts[token]

    # What is asked

    def _sequences(self, body: Any) -> list[Sequence]:
        if not isinstance(body, dict):
            raise RequestError(400, "the request must be a JSON object")
        name = body.get("model")
        if name is not None and name != self.name:
            raise RequestError(
                404, f"The model `{str(name)[:200]}` does not exist; this server has `{self.name}`.", "model"
            )
        for field, neutral in NEUTRAL.items():
            if body.get(field) is not None and body[field] not in neutral:
                raise RequestError(400, f"`{field}` is not supported by this server; leave it out", field)
        max_tokens = 16 if body.get("max_tokens") is None else body["max_tokens"]
        if not _is_whole(max_tokens) or not 0 <= max_tokens <= 1:
            raise RequestError(
                400,
                f"`max_tokens` must be 0 or 1 here, since this server scores prompts; got {max_tokens!r}",
                "max_tokens",
            )
        temperature = 1.0 if body.get("temperature") is None else body["temperature"]
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature <= 1e6:
            raise RequestError(
                400, f"`temperature` must be a number of at least 0; got {temperature!r}", "temperature"
            )
        if 0 < temperature < 1e-4:
            raise RequestError(400, f"`temperature` must be 0 or at least 0.0001; got {temperature!r}", "temperature")
        seed = body.get("seed")
        if seed is not None and (not _is_whole(seed) or not -(2**63) <= seed < 2**63):
            raise RequestError(400, f"`seed` must be a whole number of 64 bits; got {str(seed)[:50]}", "seed")
        top_k = self._top_k(body.get("prompt_logprobs"))
        prompts = self._prompts(body.get("prompt"))
        entries = sum(map(len, prompts)) * (1 + (top_k or 0))
        if entries > MOST_ENTRIES:
            raise RequestError(
                400,
                f"the answer would have {entries} log-probabilities; ask for at most {MOST_ENTRIES} at once",
                "prompt",
            )
        return [Sequence(ids, top_k, float(temperature), generate=max_tokens == 1, seed=seed) for ids in prompts]

    def _top_k(self, wanted: Any) -> int | None:
        if wanted is None:
            return None
        if not _is_whole(wanted) or wanted < -1:
            raise RequestError(
                400,
                f"`prompt_logprobs` must be a whole number of at least 0, or -1; got {wanted!r}",
                "prompt_logprobs",
            )
        wanted = self.engine.vocab_size if wanted == -1 else wanted
        if wanted > self.max_logprobs >= 0:
            message = f"Requested prompt logprobs of {wanted}, which is greater than max allowed: {self.max_logprobs}"
            raise RequestError(400, f"{message} (--max-logprobs)", "prompt_logprobs")
        return min(wanted, self.engine.vocab_size)

    def _prompts(self, prompt: Any) -> list[list[int]]:
        if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and all(map(_is_whole, prompt))):
            prompt = [prompt]
        if not isinstance(prompt, list) or not prompt:
            raise RequestError(400, "`prompt` must be text, token ids, or a list of either, and not empty", "prompt")
        if len(prompt) > MOST_PROMPTS:
            raise RequestError(
                400, f"`prompt` has {len(prompt)} entries; send at most {MOST_PROMPTS} at once", "prompt"
            )
        prompts = [self._ids(part) for part in prompt]
        longest, most = max(map(len, prompts)), self.engine.max_length
        if most is not None and longest > most:
            message = (
                f"This model's maximum context length is {most} tokens. However, your prompt has {longest} tokens."
            )
            raise RequestError(400, message, "prompt")
        return prompts

    def _ids(self, part: Any) -> list[int]:
        if isinstance(part, str):
            if self.tokenizer is None:
                raise RequestError(400, "`prompt` must be token ids, since this server has no tokenizer", "prompt")
            with self._tokenizer_lock:
                part = self.tokenizer(part)["input_ids"]
        if not isinstance(part, list) or not part or not all(map(_is_whole, part)):
            raise RequestError(400, "`prompt` must be text, token ids, or a list of either, and not empty", "prompt")
        for token in (min(part), max(part)):
            if not 0 <= token < self.engine.vocab_size:
                message = f"Token id {token} is out of vocabulary, which has {self.engine.vocab_size} tokens"
                raise RequestError(400, message, "prompt")
        return part


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: Any):
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.is_closing = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def take_no_more(self) -> None:
        """Of the clients that are connected: they get the answers that are due, and the end of the connection."""
        self.is_closing = True
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a client went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mimo-hf", ""
    timeout = SECONDS_FOR_A_REQUEST
    wbufsize = -1  # headers and body leave together
    disable_nagle_algorithm = True
    teacher: TeacherServer

    def parse_request(self) -> bool:
        if self.server.is_closing:  # type: ignore[attr-defined]
            self.close_connection = True
            return False
        return super().parse_request()

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, None)
        elif self.path == "/v1/models":
            self._answer(self.teacher.models)
        else:
            self._answer(self._unknown)

    def do_POST(self) -> None:
        self._answer(self._complete if self.path == "/v1/completions" else self._unknown)

    def _unknown(self) -> Any:
        self.close_connection = True  # a body may still come
        raise RequestError(
            404, f"there is no {self.command} {self.path[:200]}; there are /health, /v1/models, /v1/completions"
        )

    def _complete(self) -> Any:
        return self.teacher.complete(self._body())

    def _body(self) -> Any:
        self.close_connection = True  # until the body has been read
        if self.headers.get_content_type() != "application/json":
            raise RequestError(415, "the request must have the Content-Type application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise RequestError(411, "the request must have a Content-Length")
        if len(length) > 12 or int(length) > MOST_BYTES:
            raise RequestError(413, f"the request has {length[:20]} bytes; at most {MOST_BYTES} are taken")
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise RequestError(400, "the request ended too early")
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise RequestError(400, "the request is not JSON") from None

    def _answer(self, work: Any) -> None:
        try:
            if self.teacher.api_key:
                sent = self.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
                if not hmac.compare_digest(sent, f"Bearer {self.teacher.api_key}".encode()):
                    self.close_connection = True
                    raise RequestError(401, "Unauthorized")
            content = json.dumps(work(), allow_nan=False).encode()
        except RequestError as error:
            kind = {404: "NotFoundError", 503: "ServiceUnavailableError"}.get(error.status, "BadRequestError")
            self._send_error(error.status, str(error), kind, error.field)
        except ConnectionError:
            raise  # nobody is left to answer
        except TimeoutError:
            self.close_connection = True
            self._send_error(408, f"the request did not arrive within {self.timeout} seconds", "BadRequestError")
        except Exception as error:
            logger.exception("%s %s failed", self.command, self.path[:200])
            self._send_error(
                500, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "InternalServerError"
            )
        else:
            self._send(200, content)

    def _send_error(self, status: int, message: str, kind: str, field: str | None = None) -> None:
        error = {"message": message, "type": kind, "param": field, "code": status}
        self._send(status, json.dumps({"error": error}).encode())

    def _send(self, status: int, content: bytes | None) -> None:
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses, such as a malformed first line, in the same form."""
        self.close_connection = True
        self._send_error(code, message or "the request can't be read", "BadRequestError")

    def log_message(self, format: str, *arguments: Any) -> None:
        logger.info("%s %s", self.client_address[0], format % arguments)


@contextlib.contextmanager
def serve_teacher(model: Any, tokenizer: Any = None, port: int = 0, **options: Any) -> Iterator[str]:
    """
    The address of a server of `model` while the block runs.

    ```python
    with serve_teacher(model) as url:
        scores = ServerTeacher(url).score([[1, 2, 3]], [1], temperature=1.0)
    ```

    Args:
        options: of `TeacherServer`.
    """
    server = TeacherServer(model, tokenizer, port=port, **options)
    try:
        yield server.url
    finally:
        server.close()
