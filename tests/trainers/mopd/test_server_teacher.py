"""The client of a teacher's server: what it reads and asks for, in one request and in several."""

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

from ._fake_server import NO_NETWORK, SEQUENCE, VOCABULARY, Reply, completion, expected, log_softmax
from ._vllm_shapes import COMPLETION, EARLY_COMPLETION, MODELS

pytestmark = pytest.mark.usefixtures("quick")


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


# The call


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
