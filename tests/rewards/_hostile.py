"""Programs that misbehave, for the sandboxes, and limits that they reach soon."""

from mimo_hf.rewards import Limits

LIMITS = Limits(timeout_s=1.5, memory_bytes=256 << 20, output_bytes=64 << 10, processes=24)

# Each must not end as "ok" with an output; the status where there is only one right one.
HOSTILE = {
    "infinite loop": ("while True: pass", "timeout"),
    "sleep": ("import time; time.sleep(1e9)", None),
    "fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "timeout"),
    "10 GB of memory": ("x = bytearray(10 * 2**30)", "memory"),
    "list that grows": ("x = []\nwhile True: x.append(bytes(1 << 20))", "memory"),
    "10^9 characters": ("print('x' * 10**9)", None),
    "endless output": ("while True: print('x' * 1000)", "output_limit"),
    "10 GB file": ("f = open('big', 'wb')\nfor _ in range(10240): f.write(bytes(1 << 20))", "output_limit"),
    "many files": ("n = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(60000)); n += 1", None),
    "sys.exit(0)": ("import sys; sys.exit(0)", "ok"),
    "os._exit(0)": ("import os; os._exit(0)", "ok"),
    "closed stdout": ("import os\nos.close(1)\nprint(8)", None),
    "stdout duplicated to stderr": ("import os\nos.dup2(2, 1)\nprint(8)", None),
    "SIGTERM ignored": ("import signal\nfor n in (15, 2, 1): signal.signal(n, signal.SIG_IGN)\nwhile True: pass", "timeout"),
    "recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)", None),
    "recursion in C": ("import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)", None),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "runtime_error"),
    "raises": ("raise ValueError('no')", "runtime_error"),
    "NUL byte": ("print(8)\0", "runtime_error"),
    "no syntax": ("print(8", "runtime_error"),
    "lone surrogate": ("\ud800", "runtime_error"),
    "deep folders": ("import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')", None),
    "closed folder": ("import os\nos.mkdir('d'); open('d/f', 'w'); os.chmod('d', 0)", "ok"),
    "links": ("import os\nos.symlink('/', 'root'); os.symlink('loop', 'loop'); os.link('loop', 'other')", "ok"),
    "kills itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", None),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
    "ends its threads' way": ("import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()", "timeout"),
}  # fmt: skip

# Signals to others: only where a PID namespace stands between them and the processes of whoever runs these tests.
GUARD = "import os\nif os.path.exists('/etc/passwd'): raise SystemExit('this is no sandbox')\n"
KILLERS = {
    "kills everything": "import os, signal\nos.kill(-1, signal.SIGKILL)\nwhile True: pass",
    "kills its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nwhile True: pass",
    "kills all it can name": "import os\nfor pid in range(1, 1000):\n    if pid != os.getpid():\n        try: os.kill(pid, 9)\n        except OSError: pass\nwhile True: pass",
}

# Its children hold standard output open, in sessions of their own, and would go on writing files.
DAEMON = """
import os, sys, time
print(int(input()) + 1, flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        while True: time.sleep(0.01)
    os._exit(0)
"""
