"""A server of vLLM's protocol over loopback, which a test makes behave badly. Its model is a formula."""

import contextlib
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VOCABULARY = 40
SEQUENCE = [3, 1, 4, 1, 5]
NO_NETWORK = "http://127.0.0.1:9"


def log_softmax(prefix, temperature=1.0):
    """Of the token after `prefix`, as a plain loop."""
    logits = [
        ((3 * sum(prefix) + 7 * len(prefix) + 5 * token * token) % 23) / 4 / temperature for token in range(VOCABULARY)
    ]
    total = math.log(sum(map(math.exp, logits)))
    return [logit - total for logit in logits]


def expected(ids, prompt_length, temperature=1.0):
    return [log_softmax(ids[:place], temperature)[ids[place]] for place in range(prompt_length, len(ids))]


def entry(prefix, token, top_k, temperature):
    """As vLLM gives it: the token itself first, then the best ones; keys are ids."""
    logps = log_softmax(prefix, temperature)
    best = sorted(range(VOCABULARY), key=lambda other: -logps[other])
    chosen = {token: 1 + sum(logp > logps[token] for logp in logps)}
    chosen |= {other: place + 1 for place, other in enumerate(best[:top_k])}
    return {
        str(other): {"logprob": logps[other], "rank": rank, "decoded_token": f"<{other}>"}
        for other, rank in chosen.items()
    }


def completion(body, heeds_temperature=True):
    """The answer to a request."""
    temperature = body["temperature"] if heeds_temperature else 1.0
    choices = []
    for index, ids in enumerate(body["prompt"]):
        entries = [
            entry(ids[:place], ids[place], body["prompt_logprobs"], temperature) for place in range(1, len(ids))
        ]
        choices.append({"index": index, "text": "x", "finish_reason": "length", "prompt_logprobs": [None, *entries]})
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"], "choices": choices}


class Reply:
    """What the server answers: a status, a body (JSON, or bytes as they are) and headers."""

    def __init__(self, content, status=200, **headers):
        self.content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.status = status
        self.headers = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): text for name, text in headers.items()
        }


class FakeServer:
    """
    Attributes:
        replies: one for each request that comes, in turn: a Reply, or a function of (handler, body) that gives one or answers itself (None);
            when they are used up, requests are answered well.
        served: what /v1/models lists.
        requests: (path, headers, body) of all that came but those to /v1/models.
    """

    def __init__(self):
        self.replies = []
        self.otherwise = lambda handler, body: Reply(completion(body))
        self.served = [
            {"id": "teacher", "object": "model", "root": "/models/teacher", "parent": None, "max_model_len": 64}
        ]
        self.requests = []
        self.times_listed = 0
        self.lock = threading.Lock()

    def answer(self, handler, path, body):
        if path == "/v1/models":
            self.times_listed += 1
            return self.served if isinstance(self.served, Reply) else Reply({"object": "list", "data": self.served})
        with self.lock:
            self.requests.append((path, dict(handler.headers), body))
            reply = self.replies.pop(0) if self.replies else self.otherwise
        return reply if isinstance(reply, Reply) else reply(handler, body)


@contextlib.contextmanager
def fake_server():
    """(the server, its address)"""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            length = int(self.headers.get("Content-Length", 0))
            reply = fake.answer(self, self.path, json.loads(self.rfile.read(length)) if length else None)
            if reply is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, text in reply.headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *arguments: None  # clients that hang up
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
