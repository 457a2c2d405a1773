"""Faults of a teacher's server: what is repeated, and that nothing wrong passes for a number."""

import random
import threading

import pytest

from mimo_hf.trainers.mopd import server_connection
from mimo_hf.trainers.mopd.server_teacher import ServerTeacher, TeacherError

from ._fake_server import NO_NETWORK, SEQUENCE, Reply, completion, expected
from ._vllm_shapes import TOO_LONG, TOO_MANY

pytestmark = pytest.mark.usefixtures("quick")


def changed(change):
    """A reply that is right but for what `change` does to the entry at position 3."""

    def reply(handler, body):
        content = completion(body)
        entries = content["choices"][0]["prompt_logprobs"]
        entries[3] = change(entries[3])
        return Reply(content)

    return reply


# What is repeated


@pytest.mark.parametrize(
    "bad",
    [
        Reply({"error": {"message": "overloaded", "code": 500}}, 500),
        Reply(b"<html>bad gateway</html>", 502, Content_Type="text/html"),
        Reply({"detail": "slow down"}, 429),
        Reply({}, 429, Retry_After="Mon, 30 Nov 2020 00:00:00 GMT"),
        Reply({}, 503, Retry_After="soon"),
        lambda handler, body: handler.connection.close(),
        lambda handler, body: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"),
        lambda handler, body: handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"),
    ],
)  # fmt: skip
def test_a_passing_fault_is_got_over(server, bad):
    server.replies = [bad, bad]
    (score,) = ServerTeacher(server.url, retries=2).score([SEQUENCE], [1], 1.0)
    assert score.logps == pytest.approx(expected(SEQUENCE, 1))
    assert len(server.requests) == 3


def test_retry_after_is_heeded(server):
    waits = []
    stop = threading.Event()
    stop.wait = waits.append
    server.replies = [Reply({}, 429, Retry_After="7"), Reply({}, 503, Retry_After="3")]
    body = {"prompt": [], "model": "", "temperature": 1}
    ServerTeacher(server.url)._connection.request("POST", "/v1/completions", body, "", stop)
    assert waits == [7, 3]


def test_a_server_that_asks_for_too_long_a_wait_is_given_up(server):
    server.replies = [Reply({"error": {"message": "quota"}}, 429, Retry_After="3600")]
    with pytest.raises(TeacherError, match=r"429.*quota.*3600 seconds"):
        ServerTeacher(server.url).score([SEQUENCE], [1], 1.0)


def test_waits_grow_and_do_not_touch_the_generator_of_training(server, monkeypatch):
    waits = []
    monkeypatch.setattr(server_connection, "FIRST_DELAY_S", 1.0)
    stop = threading.Event()
    stop.wait = waits.append
    server.replies = [Reply({}, 500)] * 5
    random.seed(1)
    before = random.getstate()
    with pytest.raises(TeacherError, match="after 5 attempts"):
        ServerTeacher(server.url)._connection.request("POST", "/v1/completions", {}, "row 0", stop)
    assert random.getstate() == before
    assert all(0.5 * 2**n <= wait <= 1.5 * 2**n for n, wait in enumerate(waits))
    assert len(waits) == 4


def test_a_lasting_fault_is_named(server):
    server.otherwise = lambda handler, body: Reply({"error": {"message": "CUDA out of memory"}}, 500)
    with pytest.raises(TeacherError) as caught:
        ServerTeacher(server.url, retries=2).score([SEQUENCE] * 2, [1] * 2, 1.0)
    for word in (server.url, "HTTP 500", "CUDA out of memory", "3 attempts", "log"):
        assert word in str(caught.value)


def test_a_server_that_is_not_there(monkeypatch):
    with pytest.raises(
        TeacherError, match=r"http://127.0.0.1:9 can't be reached.*[Cc]onnection refused.*2 attempts.*running"
    ):
        ServerTeacher(NO_NETWORK, retries=1).check(1.0, 0, None)


def test_a_server_that_hangs(server):
    release = threading.Event()
    server.otherwise = lambda handler, body: release.wait(5) and None
    with pytest.raises(TeacherError, match=r"timed out.*2 attempts.*time-out"):
        ServerTeacher(server.url, timeout_s=0.2, retries=1).score([SEQUENCE], [1], 1.0)
    release.set()


def test_a_server_that_trickles_has_one_time_out_for_its_whole_answer(server):
    over = threading.Event()

    def trickle(handler, body):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(40):
            handler.wfile.write(b" ")
            if over.wait(0.05):
                break

    server.otherwise = trickle
    with pytest.raises(TeacherError, match=r"not complete after 0\.3 seconds"):
        ServerTeacher(server.url, timeout_s=0.3, retries=0).score([SEQUENCE], [1], 1.0)
    over.set()


# What is not repeated


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(TOO_MANY, 400), ["HTTP 400", "max allowed: 20", "--max-logprobs 2", "`top_k`"]),
        (Reply(TOO_LONG, 400), ["HTTP 400", "maximum context length", "--max-model-len"]),
        (Reply({"error": {"message": "The model `x` does not exist."}}, 404), ["HTTP 404", "`x`", "/v1/models"]),
        (Reply({"error": "Unauthorized"}, 401), ["HTTP 401", "VLLM_API_KEY"]),
        (Reply({"detail": [{"loc": ["body"]}]}, 422), ["HTTP 422", "body"]),
        (Reply(b"", 307, Location="http://me:secret@elsewhere:1/v1"), ["HTTP 307", "http://elsewhere:1/v1"]),
        (Reply(b"<html>Sign\x1b[2J in</html>", Content_Type="text/html"), ["text/html", "Sign [2J in", "address"]),
        (Reply(b"[" * 100_000), ["not with JSON"]),
        (Reply([1]), ["without choices"]),
        (Reply({"choices": None}), ["without choices"]),
        (Reply({"choices": []}), ["0 choices where 1"]),
        (Reply({"choices": [{"index": 3, "prompt_logprobs": []}]}), ["numbers its choices [3]"]),
        (Reply({"choices": [{"index": 0, "text": "x"}]}), ["no prompt_logprobs", "row 0"]),
        (Reply({"choices": [{"index": 0, "prompt_logprobs": [None] * 4}]}), ["4 prompt_logprobs for 5 tokens", "row 0"]),
        (changed(lambda entry: None), ["None", "row 0, position 3, token 1"]),
        (changed(lambda entry: entry | {"1": None}), ["None", "position 3"]),
        (changed(lambda entry: entry | {"1": {"logprob": None}}), ["None", "position 3"]),
        (changed(lambda entry: entry | {"1": {"logprob": float("nan")}}), ["nan", "position 3"]),
        (changed(lambda entry: entry | {"1": {"logprob": float("-inf")}}), ["-inf", "position 3"]),
        (changed(lambda entry: entry | {"1": {"logprob": -9999.0}}), ["-9999", "minus infinity", "position 3"]),
        (changed(lambda entry: entry | {"1": {"logprob": -(10**400)}}), ["finite", "position 3"]),
        (changed(lambda entry: entry | {"1": {"logprob": True}}), ["True", "position 3"]),
        (changed(lambda entry: entry | {"1": {"logprob": "-1"}}), ["-1", "position 3"]),
        (changed(lambda entry: entry | {"1": {"logprob": 7.5}}), ["7.5", "above 0", "logits", "--logprobs-mode"]),
        (changed(lambda entry: {key: value for key, value in entry.items() if key != "1"}), ["token itself", "position 3, token 1"]),
        (changed(lambda entry: {"one": {"logprob": -1.0}}), ["by their ids", "one"]),
        (changed(lambda entry: {"1": {"logprob": -1.0}}), ["1 log-probabilities where 2", "--max-logprobs 2"]),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_an_error_that_says_where_and_what_to_do(server, reply, words):
    server.replies = [reply]
    with pytest.raises(TeacherError) as caught:
        ServerTeacher(server.url).score([SEQUENCE], [1], 1.0, top_k=2)
    for word in [server.url, *words]:
        assert word in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(server.requests) == 1


def test_rows_are_numbered_as_the_caller_has_them(server):
    def no_token(handler, body):
        content = completion(body)
        for choice, ids in zip(content["choices"], body["prompt"], strict=True):
            if ids == SEQUENCE:
                choice["prompt_logprobs"][2] = None
        return Reply(content)

    server.otherwise = no_token
    with pytest.raises(TeacherError, match="row 5, position 2"):
        ServerTeacher(server.url).score([[1, 2]] * 5 + [SEQUENCE], [1] * 6, 1.0)
