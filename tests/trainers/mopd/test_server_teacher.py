"""The client of a teacher's server: what it reads, how it repeats, and that nothing wrong passes for a number."""

import ast
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mimo_hf.trainers.mopd import server_connection, server_teacher
from mimo_hf.trainers.mopd.server_teacher import Scores, ServerTeacher, TeacherError

from ._fake_server import VOCABULARY, Reply, completion, fake_server, log_softmax
from ._vllm_shapes import COMPLETION, EARLY_COMPLETION, MODELS, TOO_LONG, TOO_MANY

SEQUENCE = [3, 1, 4, 1, 5]
NO_NETWORK = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(server_connection, "FIRST_DELAY_S", 0.01)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture
def server():
    with fake_server() as (fake, url):
        fake.url = url
        yield fake


def expected(ids, prompt_length, temperature=1.0):
    return [log_softmax(ids[:place], temperature)[ids[place]] for place in range(prompt_length, len(ids))]


def changed(change):
    """A reply that is right but for what `change` does to the entry at position 3."""

    def reply(handler, body):
        content = completion(body)
        entries = content["choices"][0]["prompt_logprobs"]
        entries[3] = change(entries[3])
        return Reply(content)

    return reply


# What is read


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_completion_tokens(server, temperature):
    sequences = [[3, 1, 4, 1, 5], [2, 7], [1, 8, 2, 8, 1, 8, 2, 8]]
    scores = ServerTeacher(server.url).score(sequences, [2, 1, 5], temperature)
    for score, ids, length in zip(scores, sequences, [2, 1, 5], strict=True):
        assert score.logps == pytest.approx(expected(ids, length, temperature), abs=1e-12)
        assert score.top_ids == [[]] * (len(ids) - length)


def test_the_best_tokens_come_in_order_and_without_a_token_that_is_none_of_them(server):
    (score,) = ServerTeacher(server.url).score([SEQUENCE], [1], 1.0, top_k=3)
    outside = 0
    for place, (ids, logps) in enumerate(zip(score.top_ids, score.top_logps, strict=True), 1):
        right = log_softmax(SEQUENCE[:place])
        assert logps == sorted(right, reverse=True)[:3]
        assert [right[token] for token in ids] == logps
        outside += SEQUENCE[place] not in ids
    assert outside > 0


def test_a_completion_without_tokens_is_not_sent(server):
    scores = ServerTeacher(server.url).score([SEQUENCE, SEQUENCE], [5, 4], 1.0)
    assert scores[0] == Scores([], [], [])
    assert len(scores[1].logps) == 1
    assert [body["prompt"] for _, _, body in server.requests] == [[SEQUENCE]]
    assert ServerTeacher(NO_NETWORK).score([[1]], [1], 1.0) == [Scores([], [], [])]
    assert ServerTeacher(NO_NETWORK).score([], [], 1.0) == []


def test_the_request_is_that_of_the_protocol(server):
    ServerTeacher(server.url + "/v1/").score([SEQUENCE], [1], 0.5, top_k=7)
    (path, headers, body) = server.requests[0]
    assert path == "/v1/completions"
    assert body == {
        "model": "teacher",
        "prompt": [SEQUENCE],
        "max_tokens": 1,
        "temperature": 0.5,
        "prompt_logprobs": 7,
    }
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("text", [COMPLETION, EARLY_COMPLETION])
def test_shapes_of_vllm(server, text):
    server.served = Reply(MODELS.encode())
    server.replies = [Reply(text.encode())]
    teacher = ServerTeacher(server.url)
    assert teacher.score([[5, 11, 7]], [1], 1.0, top_k=2) == [
        Scores([-0.25, -6.125], [[11, 4], [9, 4]], [[-0.25, -2.5], [-0.5, -1.5]])
    ]
    assert teacher.describe() == {
        "kind": "server", "source": server.url, "model": "teacher", "root": "org/math-rl", "max_model_len": 4096,
    }  # fmt: skip


def test_keys_may_be_numbers():
    choice = json.loads(COMPLETION)["choices"][0]
    choice["prompt_logprobs"] = [
        entry and {int(key): value for key, value in entry.items()} for entry in choice["prompt_logprobs"]
    ]
    row = server_teacher._Row(0, [5, 11, 7], 1)
    assert ServerTeacher(NO_NETWORK)._scores(row, choice, 0).logps == [-0.25, -6.125]


def test_choices_may_come_in_any_order(server):
    server.otherwise = lambda handler, body: Reply(completion(body) | {"choices": completion(body)["choices"][::-1]})
    sequences = [[3, 1, 4], [2, 7, 1], [1, 6, 1]]
    scores = ServerTeacher(server.url, concurrency=1).score(sequences, [1] * 3, 1.0)
    assert [score.logps for score in scores] == [pytest.approx(expected(ids, 1)) for ids in sequences]


# Several requests


def test_order_is_kept_and_no_more_requests_are_in_flight_than_allowed(server, monkeypatch):
    monkeypatch.setattr(server_teacher, "MOST_SEQUENCES", 1)
    generator = random.Random(0)
    sequences = [[generator.randrange(VOCABULARY) for _ in range(generator.randint(2, 9))] for _ in range(60)]
    flying, most, delays = [0], [0], [0.01 + generator.random() / 50 for _ in range(60)]

    def late(handler, body):
        with server.lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
            delay = delays.pop()
        time.sleep(delay)
        with server.lock:
            flying[0] -= 1
        return Reply(completion(body))

    server.otherwise = late
    scores = ServerTeacher(server.url, concurrency=3).score(sequences, [1] * 60, 1.0)
    assert [score.logps for score in scores] == [pytest.approx(expected(ids, 1)) for ids in sequences]
    assert most[0] == 3
    assert sorted(ids for _, _, body in server.requests for ids in body["prompt"]) == sorted(sequences)
    assert server.times_listed == 1


def test_a_request_has_a_bounded_answer(server, monkeypatch):
    monkeypatch.setattr(server_teacher, "MOST_ENTRIES", 60)
    ServerTeacher(server.url, concurrency=1).score([[1] * 5] * 6, [1] * 6, 1.0, top_k=4)
    assert [len(body["prompt"]) for _, _, body in server.requests] == [2, 2, 2]
    monkeypatch.setattr(server_teacher, "MOST_ENTRIES", 1)
    ServerTeacher(server.url, concurrency=1).score([[1] * 5] * 2, [1] * 2, 1.0)
    assert [len(body["prompt"]) for _, _, body in server.requests[3:]] == [1, 1]


def test_one_failure_ends_the_others(server):
    def fails_once(handler, body):
        if [0, 0] in body["prompt"]:
            return Reply({"error": {"message": "no zeros"}}, 400)
        time.sleep(0.02)
        return Reply(completion(body))

    server.otherwise = fails_once
    sequences = [[0, 0]] + [[1, 2]] * 400
    with pytest.raises(TeacherError, match=r"rows 0 to 15.*no zeros"):
        ServerTeacher(server.url, concurrency=2).score(sequences, [1] * 401, 1.0)
    time.sleep(0.3)
    assert len(server.requests) < 6


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


# The check before training


def test_a_good_server_passes(server):
    for temperature, top_k in [(1.0, 0), (0.7, 0), (1.3, 4), (1.0, VOCABULARY)]:
        ServerTeacher(server.url).check(temperature, top_k, VOCABULARY)


def test_no_more_tokens_are_asked_for_than_there_are(server):
    teacher = ServerTeacher(server.url)
    teacher.check(1.0, 64, VOCABULARY)
    (score,) = teacher.score([SEQUENCE], [4], 1.0, top_k=64)
    assert sorted(score.top_ids[0]) == list(range(VOCABULARY))
    assert max(body["prompt_logprobs"] for _, _, body in server.requests) == VOCABULARY


def test_a_server_that_leaves_the_temperature_out_is_refused_only_where_it_matters(server):
    server.otherwise = lambda handler, body: Reply(completion(body, heeds_temperature=False))
    ServerTeacher(server.url).check(1.0, 4, VOCABULARY)
    with pytest.raises(TeacherError, match=r"temperature.*processed_logprobs.*1\.0.*mimo-hf teacher serve"):
        ServerTeacher(server.url).check(0.7, 4, VOCABULARY)


def test_a_server_that_divides_log_probabilities_by_the_temperature_is_refused(server):
    def divides(handler, body):
        content = completion(body, heeds_temperature=False)
        for entry in content["choices"][0]["prompt_logprobs"][1:]:
            for value in entry.values():
                value["logprob"] *= body["temperature"]
        return Reply(content)

    server.otherwise = divides
    with pytest.raises(TeacherError, match="a way of its own"):
        ServerTeacher(server.url).check(0.7, 0, VOCABULARY)


def test_a_server_of_logits_is_refused(server):
    def logits(handler, body):
        content = completion(body)
        for entry in content["choices"][0]["prompt_logprobs"][1:]:
            for value in entry.values():
                value["logprob"] = min(value["logprob"] + 2.5, -0.1)
        return Reply(content)

    server.otherwise = logits
    with pytest.raises(TeacherError, match=r"more than one.*logits"):
        ServerTeacher(server.url).check(1.0, 8, VOCABULARY)


def test_a_server_of_a_smaller_vocabulary_is_refused(server):
    server.replies = [server.otherwise, Reply({"error": {"message": "token id 99 is out of vocabulary"}}, 400)]
    with pytest.raises(TeacherError, match=r"token 99.*vocabulary of 100.*tokenizer.*out of vocabulary"):
        ServerTeacher(server.url).check(1.0, 0, 100)


def test_models(server):
    server.served = [{"id": "base", "root": "base"}, {"id": "math", "root": "lora", "parent": "base"}]
    with pytest.raises(TeacherError, match=r"serves base, math; say which with ServerTeacher"):
        ServerTeacher(server.url).describe()
    assert ServerTeacher(server.url, model="math").describe()["root"] == "lora"
    with pytest.raises(TeacherError, match=r"does not serve `model`='code'; it serves base, math"):
        ServerTeacher(server.url, model="code").check(1.0, 0, None)
    server.served = [{"id": "a", "root": "r", "parent": None}, {"id": "b", "root": "r", "parent": None}]
    assert ServerTeacher(server.url).describe()["model"] == "a"
    server.served = []
    with pytest.raises(TeacherError, match="serves none"):
        ServerTeacher(server.url).describe()
    server.served = [{"name": "a"}]
    with pytest.raises(TeacherError, match="list of models"):
        ServerTeacher(server.url).describe()
    server.served = Reply({}, 404)
    assert ServerTeacher(server.url, model="a").describe()["model"] == "a"
    with pytest.raises(TeacherError, match="404"):
        ServerTeacher(server.url).describe()


# Keys, proxies, addresses


def test_keys_are_sent_and_shown_nowhere(server, monkeypatch):
    secrets = []

    def refuse(handler, body):
        secrets.append(handler.headers["Authorization"])
        return Reply({"error": "no"}, 403)

    server.otherwise = refuse
    address = server.url.replace("//", "//ann:pass%40word@")
    monkeypatch.setenv("VLLM_API_KEY", "from-environment\n")
    for teacher in (ServerTeacher(server.url), ServerTeacher(server.url, api_key="given"), ServerTeacher(address)):
        with pytest.raises(TeacherError) as caught:
            teacher.score([SEQUENCE], [1], 1.0)
        seen = f"{caught.value!r} {teacher!r} {teacher.describe()}"
        assert not {"from-environment", "given", "pass", "ann"} & set(seen.replace("@", " ").replace(":", " ").split())
        assert teacher.url == server.url
    assert secrets == ["Bearer from-environment", "Bearer given", "Basic YW5uOnBhc3NAd29yZA=="]
    with pytest.raises(ValueError, match="api_key") as caught:
        ServerTeacher(server.url, api_key="se cret")
    assert "se cret" not in str(caught.value)
    with pytest.raises(ValueError, match="must not be given together with a user"):
        ServerTeacher(address, api_key="given")


def test_no_proxy_and_no_netrc_is_used_for_this_machine(server, monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NO_NETWORK)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    ServerTeacher(server.url, retries=0).score([SEQUENCE], [1], 1.0)
    assert "Authorization" not in server.requests[0][1]


def test_other_machines_are_reached_through_the_proxy_and_without_netrc(server, monkeypatch, tmp_path):
    monkeypatch.setenv("http_proxy", server.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine teacher.invalid login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.otherwise = lambda handler, body: Reply({"error": {"message": "by the proxy"}}, 400)
    with pytest.raises(TeacherError, match="by the proxy"):
        ServerTeacher("http://teacher.invalid", model="m", retries=0).describe()
    (path, headers, _) = server.requests[0]
    assert path == "http://teacher.invalid/v1/models"
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": "127.0.0.1:8000"}, "url.*http://127.0.0.1:8000; got '127.0.0.1:8000'"),
        ({"url": "ftp://a"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://a:99999"}, "url"),
        ({"url": "http://me:secret@a?x=1"}, r"url.*got 'a\?x=1'"),
        ({"url": "http://[::1"}, "url"),
        ({"url": None}, "url"),
        ({"url": NO_NETWORK, "concurrency": 0}, "concurrency.*got 0"),
        ({"url": NO_NETWORK, "retries": -1}, "retries.*got -1"),
        ({"url": NO_NETWORK, "timeout_s": 0}, "timeout_s.*got 0"),
    ],
)
def test_arguments_are_checked_at_once(arguments, words):
    with pytest.raises(ValueError, match=words):
        ServerTeacher(arguments.pop("url"), **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[1, 2]], [1, 1], 1.0), "prompt_lengths.*1 sequences; got 2"),
        (([[1, 2]], [0], 1.0), "prompt_lengths.*got 0 in row 0"),
        (([[1, 2]], [3], 1.0), "prompt_lengths.*got 3 in row 0"),
        (([[1, 2]], [1], 0.0), "temperature.*got 0.0"),
        (([[1, 2]], [1], float("nan")), "temperature.*got nan"),
        (([[1, 2]], [1], 1.0, -1), "top_k.*got -1"),
    ],
)
def test_what_is_asked_is_checked_before_it_is_sent(arguments, words):
    with pytest.raises(ValueError, match=words):
        ServerTeacher(NO_NETWORK).score(*arguments)


def test_ctrl_c_ends_it_at_once(server):
    release = threading.Event()
    server.otherwise = lambda handler, body: release.wait(100) and None
    program = (
        "import sys, time; from mimo_hf.trainers.mopd.server_teacher import ServerTeacher\n"
        "try: ServerTeacher(sys.argv[1]).score([[1, 2]] * 8, [1] * 8, 1.0)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, server.url], stdout=subprocess.PIPE, text=True) as running:
        while not server.requests:
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGINT)
        assert running.communicate(timeout=60)[0] == "interrupted\n"
    release.set()


def test_the_client_needs_neither_vllm_nor_torch():
    for module in (server_teacher, server_connection):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
        heads = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
        assert heads <= {"requests", "urllib3"}
