"""Starts the forks of `_warm_python.py` in the manner of `subprocess`."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = Path(__file__).with_name("_warm_python.py")


class WarmProcess:
    """As `subprocess.Popen`."""

    def __init__(self, server, pid):
        self.pid, self.returncode = pid, None
        self._server, self._ended = server, os.pidfd_open(pid)

    def poll(self):
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self.returncode = self._server.ask({"ended": self.pid})
            os.close(self._ended)
        return self.returncode

    def wait(self, timeout=None):
        """subprocess.TimeoutExpired if it goes on for longer."""
        if self.returncode is None and not select.select([self._ended], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.poll()

    def send_signal(self, number):
        if self.poll() is None:
            signal.pidfd_send_signal(self._ended, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class WarmPython:
    """Pythons that have imported `modules`; the arguments of their processes are those of `python`."""

    def __init__(self, *modules):
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, SERVER, str(theirs.fileno()), *modules], pass_fds=[theirs.fileno()]
            )
        assert self._channel.recv(16) == b"ready"

    def ask(self, request, files=()):
        socket.send_fds(self._channel, [json.dumps(request).encode()], list(files))
        return json.loads(self._channel.recv(1 << 10))

    def start(self, *arguments, env=None, cwd=None, stdout=None, stderr=None):
        """`stdout` and `stderr`: open files, or None: this process's own."""
        request = {
            "arguments": [str(argument) for argument in arguments],
            "environment": {name: str(value) for name, value in (os.environ if env is None else env).items()},
            "folder": str(cwd or os.getcwd()),
        }
        with open(os.devnull) as nothing:
            numbers = [own if file is None else file.fileno() for own, file in ((1, stdout), (2, stderr))]
            return WarmProcess(self, self.ask(request, [nothing.fileno(), *numbers]))

    def run(self, *arguments, env=None, cwd=None, timeout=300):
        """To its end, with what it has printed: a `subprocess.CompletedProcess`."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            process = self.start(*arguments, env=env, cwd=cwd, stdout=stdout, stderr=stderr)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            for file in (stdout, stderr):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, process.returncode, stdout.read(), stderr.read())

    def close(self):
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
