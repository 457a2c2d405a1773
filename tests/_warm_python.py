"""
Forks processes in which modules are imported already: `python _warm_python.py CHANNEL MODULE ...`.

To import torch, transformers and TRL takes longer than what most tests do with them. Each fork is a process of its own, with its
own arguments, environment, folder, output and exit code, and can be killed as any other. This process only waits.
"""

import gc
import importlib
import json
import os
import runpy
import socket
import sys


def serve(channel):
    """Answers until the other side is gone; then None. In a fork: the request that it is to be."""
    while True:
        message, files, _, _ = socket.recv_fds(channel, 1 << 18, 3)
        if not message:
            return None
        request = json.loads(message)
        if "ended" in request:
            _, status = os.waitpid(request["ended"], 0)
            channel.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            channel.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            return request
        for file in files:
            os.close(file)
        channel.send(json.dumps(pid).encode())


def become(request):
    """What Python does with its command line and environment: a script, `-m` and a module, or `-c` and a program."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    first, *rest = request["arguments"]
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [path for path in paths if path not in sys.path]
    if first in ("-m", "-c"):
        sys.argv = [first, *rest[1:]]
        sys.path.insert(0, os.getcwd() if first == "-m" else "")
    else:
        sys.argv = [first, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
    if first == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(first, run_name="__main__")


def main():
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        importlib.import_module(name)
    del sys.path[0]  # the folder of this file
    gc.freeze()
    channel.send(b"ready")
    request = serve(channel)
    if request is not None:
        become(request)


if __name__ == "__main__":
    main()
