"""Whom the scheduler trusts: its lock is this user's alone, and so is whoever unpickles what it sends."""

import asyncio
import contextlib
import os

import pytest

from mimo_hf.scheduler import Action
from mimo_hf.scheduler.core.types import Command
from mimo_hf.scheduler.executors.local import sandbox
from mimo_hf.scheduler.sharing import owner, wire
from mimo_hf.scheduler.sharing.owner import LOCK_VARIABLE, Ownership, UntrustedLock, current_owner, lock_path
from mimo_hf.scheduler.sharing.server import Server

from .conftest import drive


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch):
    """Where the lock goes by default."""
    monkeypatch.delenv(LOCK_VARIABLE)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(owner.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_the_lock_lies_in_a_folder_that_nobody_else_can_enter(temporary_folder):
    path = lock_path()
    assert path.parent.parent == temporary_folder
    assert path.parent.stat().st_mode & 0o777 == 0o700
    held = Ownership("unix:/nowhere")
    assert path.stat().st_mode & 0o777 == 0o600
    assert current_owner()["address"] == "unix:/nowhere"
    held.release()
    assert current_owner() is None


def test_the_runtime_folder_of_the_session_comes_first(temporary_folder, tmp_path_factory, monkeypatch):
    runtime = tmp_path_factory.mktemp("runtime")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert lock_path().parent.parent == runtime


def squat(folder, kind):
    if kind == "link":
        (folder.parent / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(folder.parent / "elsewhere")
    elif kind == "file":
        folder.touch(mode=0o600)
    else:
        folder.mkdir(mode=0o700)
        folder.chmod(0o755 if kind == "open" else 0o700)


@pytest.mark.parametrize("kind", ["link", "file", "open", "foreign"])
def test_a_folder_of_somebody_else_is_refused_by_name(temporary_folder, kind, monkeypatch):
    uid = os.getuid() + (kind == "foreign")
    monkeypatch.setattr(os, "getuid", lambda: uid)
    folder = temporary_folder / f"mimo-scheduler-{uid}"
    squat(folder, kind)
    for attempt in (lambda: Ownership("unix:/x"), current_owner):
        with pytest.raises(UntrustedLock, match=rf"{folder} must be a folder of user {uid} .*{LOCK_VARIABLE}"):
            attempt()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_that_is_a_link_leads_to_no_other_file(tmp_path, monkeypatch, link):
    precious = tmp_path / "precious"
    precious.write_text('{"pid": 1, "start": "0", "address": "unix:/elsewhere"}')
    before = precious.read_text()
    link(precious, tmp_path / "lock")
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path / "lock"))
    for attempt in (lambda: Ownership("unix:/x"), current_owner):
        with pytest.raises(UntrustedLock, match=LOCK_VARIABLE):
            attempt()
    assert precious.read_text() == before


@pytest.mark.parametrize("fault", ["foreign", "writable"])
def test_a_lock_that_others_can_write_is_believed_by_nobody(tmp_path, monkeypatch, fault):
    lock = tmp_path / "lock"
    lock.write_text(
        f'{{"pid": {os.getpid()}, "start": "{owner.process_start(os.getpid())}", "address": "unix:/theirs"}}'
    )
    lock.chmod(0o666 if fault == "writable" else 0o600)
    monkeypatch.setenv(LOCK_VARIABLE, str(lock))
    if fault == "foreign":
        real = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: real + 1)
    with pytest.raises(UntrustedLock, match="nobody else can write"):
        current_owner()


class Silent:
    """A scheduler that must not be asked."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was asked for")


@pytest.mark.parametrize("side", ["server", "client"])
def test_nothing_is_unpickled_from_another_user(monkeypatch, side):
    read = []
    monkeypatch.setattr(wire.pickle, "loads", read.append)
    real = os.getuid()

    async def meet():
        server = Server(Silent())
        await server.start()
        try:
            if side == "server":
                reader, writer = await asyncio.open_unix_connection(server.address.removeprefix("unix:"))
                monkeypatch.setattr(os, "getuid", lambda: real + 1)
                writer.write(wire.frame(0, "stats", None))
                with contextlib.suppress(ConnectionResetError):  # closed with our bytes unread
                    assert await reader.read() == b""
                writer.close()
            else:
                monkeypatch.setattr(os, "getuid", lambda: real + 1)
                with pytest.raises(PermissionError, match=f"a process of user {real}, not {real + 1}"):
                    await wire.open_address(server.address)
        finally:
            monkeypatch.setattr(os, "getuid", lambda: real)
            server.close()

    asyncio.run(asyncio.wait_for(meet(), 10))
    assert read == []


@pytest.mark.parametrize(
    "image", ["python:3.12", "host:5000/team/tool@sha256:" + "0" * 64, "docker.io/library/alpine"]
)
def test_image_names_are_known_by_their_form(image, tmp_path, monkeypatch):
    (tmp_path / "docker").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sandbox(f"docker:{image}")[-1] == image


@pytest.mark.parametrize("image", ["--help", "-v", "a b", "name;x", "../x", ""])
def test_what_is_no_image_name_never_reaches_docker(image):
    with pytest.raises(ValueError, match="sandbox"):
        sandbox(f"docker:{image}")


def test_a_command_that_begins_with_dashes_is_no_option_of_the_sandbox(tmp_path, monkeypatch):
    """With a stand-in for bwrap that says which of its words are the command's."""
    (tmp_path / "bwrap").write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\necho "$@"\n')
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    async def work(scheduler):
        return (await scheduler.run(Action("dashes", Command(("--version", "x")), {"cpu": 1}))).stdout

    assert drive(work, sandbox="bwrap") == "--version x\n"
