"""What comes in through sockets and the lock, from whomever: each wrong word ends in one clear error or a closed connection."""

import asyncio
import logging
import os

import pytest

from mimo_hf.scheduler.executors.worker import LENGTH
from mimo_hf.scheduler.live.metrics import MOST_HEADERS, serve_metrics
from mimo_hf.scheduler.sharing import wire
from mimo_hf.scheduler.sharing.owner import LOCK_VARIABLE, Ownership, current_owner
from mimo_hf.scheduler.sharing.server import Server

HUGE = 10**30


async def asked(port, request, hold=False):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if not hold:
            writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


REQUESTS = [
    b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET " + b"x" * 200_000, b"\xff\xfe\0 / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * (MOST_HEADERS * 3) + b"\r\n",
    b"GET /metrics HTTP/1.1\r\nlong: " + b"x" * 200_000 + b"\r\n\r\n",
]  # fmt: skip


def test_no_request_to_the_metrics_port_is_logged_as_an_exception(caplog):
    """And after all of them the port still answers."""
    unhandled = []

    async def work():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
        server = await serve_metrics(lambda: "mimo 1\n", 0)
        port = server.sockets[0].getsockname()[1]
        answers = [await asked(port, request) for request in REQUESTS]
        good = await asked(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        server.close()
        return answers, good

    with caplog.at_level(logging.DEBUG):
        answers, good = asyncio.run(asyncio.wait_for(work(), 30))
    assert unhandled == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert good.startswith(b"HTTP/1.1 200 OK")
    assert good.endswith(b"mimo 1\n")
    assert not any(answer.startswith(b"HTTP/1.1 200") for answer in answers)


def test_a_page_that_can_not_be_made_is_an_answer_not_an_exception():
    unhandled = []

    def page():
        raise OverflowError("too large")

    async def work():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
        server = await serve_metrics(page, 0)
        answer = await asked(server.sockets[0].getsockname()[1], b"GET / HTTP/1.1\r\n\r\n")
        server.close()
        return answer

    answer = asyncio.run(asyncio.wait_for(work(), 10))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert unhandled == []


def test_only_so_many_listeners_of_the_metrics_are_served_at_once(monkeypatch):
    from mimo_hf.scheduler.live import metrics

    monkeypatch.setattr(metrics, "MOST_CONNECTIONS", 3)

    async def work():
        server = await serve_metrics(lambda: "", 0)
        port = server.sockets[0].getsockname()[1]
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        await asyncio.sleep(0.05)
        refused = await asked(port, b"GET / HTTP/1.1\r\n\r\n")
        idle[0][1].close()
        while not (answer := await asked(port, b"GET / HTTP/1.1\r\n\r\n")):
            await asyncio.sleep(0.01)
        for _, writer in idle:
            writer.close()
        server.close()
        return refused, answer

    refused, answer = asyncio.run(asyncio.wait_for(work(), 20))
    assert refused == b""
    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_who_says_nothing_is_hung_up_on(monkeypatch):
    from mimo_hf.scheduler.live import metrics

    monkeypatch.setattr(metrics, "LONGEST_S", 0.05)

    async def work():
        server = await serve_metrics(lambda: "", 0)
        answer = await asked(server.sockets[0].getsockname()[1], b"GET / HTTP/1.1\r\n", hold=True)
        server.close()
        return answer

    assert asyncio.run(asyncio.wait_for(work(), 20)) == b""


def test_a_taken_port_is_named():
    async def work():
        server = await serve_metrics(lambda: "", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            with pytest.raises(OSError, match=rf"`metrics_port={port}` can't be used: .*0 takes a free one"):
                await serve_metrics(lambda: "", port)
        finally:
            server.close()

    asyncio.run(work())


class Idle:
    config = None


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        LENGTH.pack(2**64 - 1),
        LENGTH.pack(5) + b"hello",
        LENGTH.pack(0),
        LENGTH.pack(4) + b"\x80\x04N.",
    ],
)
def test_who_does_not_speak_our_language_is_hung_up_on(sent):
    unhandled = []

    async def work():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
        server = Server(Idle())
        await server.start()
        try:
            reader, writer = await asyncio.open_unix_connection(server.address.removeprefix("unix:"))
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()
        finally:
            server.close()

    asyncio.run(asyncio.wait_for(work(), 10))
    assert unhandled == []


def test_a_length_that_no_message_has_is_an_error_of_the_connection():
    async def work():
        reader = asyncio.StreamReader()
        reader.feed_data(LENGTH.pack(2**63))
        with pytest.raises(ConnectionError, match="9223372036854775808 bytes"):
            await wire.read_frame(reader)

    asyncio.run(work())


@pytest.mark.parametrize(
    "content",
    [
        "[]", "5", "null", '"x"', "{}", '{"pid": 1}', '{"pid": "../..", "start": "0", "address": "unix:/x"}', "[" * 50_000,
        '{"pid": -1, "start": "0", "address": "unix:/x"}', f'{{"pid": {HUGE}, "start": "0", "address": "unix:/x"}}',
        '{"pid": 1, "start": 5, "address": 7}', "x" * 100_000, '{"pid": ' + "9" * 5000 + "}", "\\ud800",
    ],
    ids=range(14),
)  # fmt: skip
def test_a_lock_that_says_nonsense_names_no_owner_and_can_be_taken(tmp_path, monkeypatch, content):
    lock = tmp_path / "lock"
    lock.write_text(content)
    lock.chmod(0o600)
    monkeypatch.setenv(LOCK_VARIABLE, str(lock))
    assert current_owner() is None
    held = Ownership("unix:/mine")
    assert current_owner() == {"pid": os.getpid(), "start": current_owner()["start"], "address": "unix:/mine"}
    held.release()


def test_a_lock_of_bytes_that_are_no_text_names_no_owner(tmp_path, monkeypatch):
    (tmp_path / "lock").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "lock").chmod(0o600)
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path / "lock"))
    assert current_owner() is None
    Ownership("unix:/mine").release()
