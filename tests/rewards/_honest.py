"""What a solution may do as well: each must end as with `python program.py`, with the same output. `different` says which do not."""

import functools
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ._attempts import PATIENT, open_sandbox

ROOMY = replace(PATIENT, memory_bytes=1 << 30)
WRITER = "import sys\nclass Out:\n    def write(self, text): sys.__stdout__.write(text.upper())\n"
LAST = "class Last:\n    def __init__(self, name): self.name = name\n    def __del__(self): print('last', self.name)\n"
FILE = "out = open(1, 'w')\ndef say(words): out.write(words)\n"
SQUARE = "def square(x): return x * x\n"
FAST = """
import os, sys
from io import BytesIO, IOBase
class Fast(IOBase):
    def __init__(self, file):
        self.file, self.buffer, self.writable = file.fileno(), BytesIO(), "r" not in file.mode
    def readline(self):
        if not self.buffer.getvalue(): self.buffer = BytesIO(os.read(self.file, os.fstat(self.file).st_size))
        return self.buffer.readline().decode()
    def write(self, words): self.buffer.write(words.encode())
    def flush(self):
        if self.writable: os.write(self.file, self.buffer.getvalue()); self.buffer = BytesIO()
sys.stdin, sys.stdout = Fast(sys.stdin), Fast(sys.stdout)
for _ in range(int(sys.stdin.readline())): print(sum(map(int, sys.stdin.readline().split())))
"""

# Each is given INPUT.
INPUT = "2\n1 2\n3 4\n"
HONEST = {
    "input": "print([input().split() for _ in range(int(input()))])",
    "lines": "import sys\nfor line in sys.stdin: print(line.strip()[::-1])",
    "bytes": "import sys\nprint(len(sys.stdin.buffer.read().split()))",
    "file 0": "print(open(0).read())",
    "file of standard input": "print(open('/dev/stdin').read())",
    "memory of standard input": "import mmap\nprint(mmap.mmap(0, 0, access=mmap.ACCESS_READ)[:3])",
    "fileinput": "import fileinput\nfor line in fileinput.input(): print(line)",
    "the end of its input": "while True: print(input())",
    "streams of its own": FAST,
    "exit()": "print(8)\nexit()",
    "quit(0)": "print(8)\nquit(0)\nprint(9)",
    "exit(1)": "print(8)\nexit(1)",
    "exit with a message": "print(8)\nexit('no')",
    "exit with 256": "import sys\nprint(8)\nsys.exit(256)",
    "exit with a number beyond C's": "import sys\nprint(8)\nsys.exit(2**100)",
    "exit with -1": "import sys\nprint(8)\nsys.exit(-1)",
    "exit with True": "import sys\nprint(8)\nsys.exit(True)",
    "exit with a message, and no standard error": "import sys\nprint(8)\nsys.stderr = None\nsys.exit('no')",
    "exit in a thread": "import sys, threading\nthreading.Thread(target=sys.exit, args=(3,)).start()\nprint(8)",
    "an error in a thread": "import threading\nthreading.Thread(target=lambda: 1 / 0).start()\nprint(8)",
    "an error in an exit function": "import atexit\natexit.register(lambda: 1 / 0)\nprint(8)",
    "exit in an exit function": "import atexit, sys\natexit.register(sys.exit, 3)\nprint(8)",
    "exit in a hook for errors": "import sys\nsys.excepthook = lambda *e: sys.exit(0)\nprint(8)\n1 / 0",
    "an error": "print(8)\n1 / 0",
    "an interrupt": "print(8)\nraise KeyboardInterrupt",
    "a thread that ends late": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()\nprint(8)",
    "a daemon": "import threading, time\nthreading.Thread(target=time.sleep, args=(50,), daemon=True).start()\nprint(8)",
    "a deep recursion in a thread": "import sys, threading\nsys.setrecursionlimit(10**6); threading.stack_size(1 << 27)\ndef f(n): return n and 1 + f(n - 1)\nthread = threading.Thread(target=lambda: print(f(50000))); thread.start(); thread.join()",
    "a recursion as deep as is allowed": "def f(n): return f(n + 1)\ntry: f(0)\nexcept RecursionError: print(8)",
    "an output with write alone": WRITER + "sys.stdout = Out()\nprint('abc')",
    "an output without closed": WRITER + "    def flush(self): pass\nsys.stdout = Out()\nprint('abc')",
    "an output whose flush fails": WRITER + "    def flush(self): 1 / 0\nsys.stdout = Out()\nprint('abc')",
    "an output in upper case, and errors in none": WRITER + "    def flush(self): pass\nsys.stderr = Out()\nprint('abc')",
    "a detached output": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint(8)",
    "another output with the same buffer": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(8)",
    "an output kept in memory": "import io, sys\nsys.stdout = io.StringIO()\nprint(8)\nsys.__stdout__.write(sys.stdout.getvalue())",
    "an exit function that writes": "import atexit, io, sys\nout = sys.stdout\nsys.stdout = io.StringIO()\natexit.register(lambda: out.write(sys.stdout.getvalue()))\nprint(8)",
    "a closed output": "import sys\nprint(8)\nsys.stdout.close()",
    "no output any more": "import sys\nprint(8, flush=True)\nsys.stdout = None",
    "a file that nobody closes": FILE + "say('8')",
    "such a file, held by a hook": FILE + "import sys\nsys.excepthook = lambda *e: None\nsay('8')",
    "such a file, held by a handler": FILE + "import signal\nsignal.signal(signal.SIGUSR1, lambda *a: None)\nsay('8')",
    "such a file, held by a builtin": FILE + "import builtins\nbuiltins.print = say\nprint('8')",
    "such a file, held by a cache": FILE + "import functools\n@functools.cache\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nsay(str(f(80)))",
    "finalizers": LAST + "one = Last(1)\n_two = Last(2)\nthree = Last(3); three.own = three\nprint('end')",
    "a finalizer that uses a module": "import json\nclass Last:\n    def __del__(self): print(json.dumps([1]))\nlast = Last()",
    "weakref.finalize": "import weakref\nclass Last: pass\nlast = Last()\nweakref.finalize(last, print, 'last')\nprint(8)",
    "a generator that is not at its end": "def numbers():\n    try: yield 1\n    finally: print('closed')\nnumbers = numbers(); next(numbers)",
    "a process": "import multiprocessing\nchild = multiprocessing.Process(target=print, args=(8,)); child.start(); child.join(); print(child.exitcode)",
    "a pool of processes": SQUARE + "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(square, range(5)))",
    "an executor of processes": SQUARE + "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\nwith ProcessPoolExecutor(2, multiprocessing.get_context('fork')) as pool: print(list(pool.map(square, range(5))))",
    "a number that processes share": "import multiprocessing\nnumber = multiprocessing.Value('i', 7)\nwith number.get_lock(): number.value += 1\nprint(number.value)",
    "memory that processes share": "from multiprocessing import shared_memory\nmemory = shared_memory.SharedMemory(create=True, size=100); memory.buf[0] = 8\nprint(memory.buf[0]); memory.close(); memory.unlink()",
    "an executor of threads, not closed": "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(2).submit(print, 8)",
    "asyncio": "import asyncio\nasync def f(n):\n    await asyncio.sleep(0.01); return n\nasync def main(): print(await asyncio.gather(*map(f, range(4))))\nasyncio.run(main())",
    "another Python": "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(8)'], text=True, capture_output=True).stdout)",
    "a fork": "import os\nprint('both')\nif os.fork() == 0: raise SystemExit\nos.wait(); print('parent')",
    "a signal": "import signal, time\nsignal.signal(signal.SIGALRM, lambda *a: print('alarm')); signal.setitimer(signal.ITIMER_REAL, 0.05)\ntime.sleep(0.2)",
    "files": "import tempfile\nopen('a', 'w').write('8'); print(open('a').read())\nwith tempfile.NamedTemporaryFile() as file: print(file.tell())",
    "a bigger stack": "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 24, resource.getrlimit(resource.RLIMIT_STACK)[1]))\nprint(8)",
    "ctypes": "import ctypes\nprint(ctypes.CDLL('libc.so.6').abs(-8))",
    "exact numbers": "import decimal, fractions\nprint(decimal.Decimal(2).sqrt(), fractions.Fraction(1, 3) + fractions.Fraction(1, 6))",
    "locale": "import locale\nprint(locale.getlocale(), locale.getpreferredencoding(False).lower())",
    "itself as a module": "import __main__\nx = 8\nprint(__main__.x, __name__, __doc__, __spec__, __file__.rpartition('/')[2])",
    "pickle": "import pickle\nclass A: x = 8\nprint(pickle.loads(pickle.dumps(A())).x)",
    "doctest": "'''\n>>> 1 + 1\n2\n'''\nimport doctest\nprint(doctest.testmod())",
    "unittest": "import unittest\nclass Test(unittest.TestCase):\n    def test(self): self.assertEqual(1, 1)\nunittest.main()",
    "words of all the world": "print('héllo', '日本')",
}  # fmt: skip
if os.path.isfile("/usr/share/zoneinfo/Europe/Berlin"):
    HONEST["zoneinfo"] = (
        "import datetime, zoneinfo\nprint(datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')))"
    )


@functools.cache
def plain(source: str) -> tuple[str, str]:
    """Status and standard output without any sandbox."""
    with tempfile.TemporaryDirectory() as folder:
        program, given, out = (Path(folder) / name for name in ("program.py", "input", "output"))
        program.write_text(source)
        given.write_text(INPUT)
        with given.open() as stdin, out.open("w") as stdout:
            words = [sys.executable, program.name]
            ended = subprocess.run(
                words, cwd=folder, env={}, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, check=False
            )
        return "runtime_error" if ended.returncode else "ok", out.read_text()


def different(kind: str) -> list[str]:
    """The programs that a sandbox of this kind judges otherwise than an interpreter: a line each."""
    with ThreadPoolExecutor(4) as threads, open_sandbox(kind, workers=2) as sandbox:

        def compare(name):
            found, right = sandbox.run(HONEST[name], INPUT, ROOMY), plain(HONEST[name])
            return "" if (found.status, found.stdout) == right else f"{name}: {found} instead of {right}"[:600]

        return [line for line in threads.map(compare, HONEST) if line]
