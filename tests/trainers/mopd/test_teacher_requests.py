"""What a teacher's server refuses, and how it says so."""

import http.client
import json
import re
import socket

import pytest

from mimo_hf.trainers.mopd import teacher_server
from mimo_hf.trainers.mopd.teacher_server import serve_teacher

from ._served_model import ask

pytestmark = pytest.mark.usefixtures("no_key")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ([], 400, "JSON object"),
        ({}, 400, "`max_tokens`.*got 16"),
        ({"prompt": None}, 400, "`prompt`"),
        ({"prompt": []}, 400, "`prompt`"),
        ({"prompt": [[]]}, 400, "`prompt`"),
        ({"prompt": ""}, 400, "`prompt`"),
        ({"prompt": [[1], 2]}, 400, "`prompt`"),
        ({"prompt": [[1.0]]}, 400, "`prompt`"),
        ({"prompt": [[True]]}, 400, "`prompt`"),
        ({"prompt": [[1, 18]]}, 400, "Token id 18 is out of vocabulary"),
        ({"prompt": [[-1]]}, 400, "Token id -1"),
        ({"prompt": [[10**30]]}, 400, "out of vocabulary"),
        ({"prompt": [[1] * 129]}, 400, "maximum context length is 128 tokens.*129"),
        ({"prompt": [[1]] * 1025}, 400, "1025 entries"),
        ({"model": "other"}, 404, "`other` does not exist; this server has"),
        ({"max_tokens": 2}, 400, "`max_tokens` must be 0 or 1.*got 2"),
        ({"max_tokens": None}, 400, "`max_tokens`.*got 16"),
        ({"temperature": -1}, 400, "`temperature`.*got -1"),
        ({"temperature": "hot"}, 400, "`temperature`"),
        ({"temperature": 1e-9}, 400, "`temperature`"),
        ({"prompt_logprobs": 19}, 400, "prompt logprobs of 19, which is greater than max allowed: 18"),
        ({"prompt_logprobs": -2}, 400, "`prompt_logprobs`"),
        ({"prompt_logprobs": True}, 400, "`prompt_logprobs`"),
        ({"seed": 2**70}, 400, "`seed`"),
        ({"stream": True}, 400, "`stream` is not supported"),
        ({"n": 2}, 400, "`n` is not supported"),
        ({"top_p": 0.5}, 400, "`top_p` is not supported"),
        ({"logprobs": 1}, 400, "`logprobs` is not supported"),
    ],
)
def test_a_bad_request_is_answered_with_what_is_wrong(url, body, status, words):
    if isinstance(body, dict) and body:
        body = {"prompt": [1, 2], "max_tokens": 1, "prompt_logprobs": 0} | body
    answer = ask(url, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status)
    assert error["type"] == ("NotFoundError" if status == 404 else "BadRequestError")
    assert re.search(words, error["message"])


def test_neutral_and_unknown_fields_change_nothing(url):
    body = {"prompt": [1, 2], "max_tokens": 0, "prompt_logprobs": 0}
    more = {"n": 1, "top_p": 1.0, "top_k": -1, "stream": False, "echo": None, "stop": [], "user": "me", "novelty": [1]}
    assert ask(url, body | more).json()["choices"] == ask(url, body).json()["choices"]


def raw(url, text):
    """The status and the JSON of the answer to bytes."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431, "headers"),
        (b"BREW / HTTP/1.1\r\n\r\n", 501, "BREW"),
        (b"GET /v2 HTTP/1.1\r\n\r\n", 404, "/v1/completions"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 404, "there is no POST /v1/chat/completions"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 415, "application/json"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n\r\n", 411, "Content-Length"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: -5\r\n\r\n", 411, "Content-Length"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n", 413, "at most"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{", 400, "too early"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{]", 400, "not JSON"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 90000\r\n\r\n" + b"[" * 90_000, 400, "not JSON"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, ""),
    ],
)  # fmt: skip
def test_what_is_no_request_is_answered_in_the_same_form(url, request_, status, words):
    found, answer = raw(url, request_)
    assert (found, answer["error"]["code"]) == (status, status)
    assert words in answer["error"]["message"]


def test_what_follows_a_refused_request_is_not_taken_for_another_one(url):
    body = b"GET /health HTTP/1.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_slow_request_is_given_up(model, monkeypatch):
    monkeypatch.setattr(teacher_server._Handler, "timeout", 0.2)
    with (
        serve_teacher(model) as url,
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as slow,
    ):
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        assert answer.status == 408
        assert "within 0.2 seconds" in answer.read().decode()


def test_answers_have_a_bound(url, model, monkeypatch):
    monkeypatch.setattr(teacher_server, "MOST_ENTRIES", 10)
    assert "at most 10 at once" in ask(url, {"prompt": [1] * 6, "max_tokens": 0, "prompt_logprobs": 1}).text
    monkeypatch.setattr(teacher_server, "MOST_WAITING", 2)
    answer = ask(url, {"prompt": [[1]] * 3, "max_tokens": 0, "prompt_logprobs": 1})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
