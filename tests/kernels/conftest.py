"""
What all kernel tests share: the backends, and memory that nobody may read.

A test that takes `backend` runs on the PyTorch reference, in Triton's interpreter and, where there is one, on a GPU.
"""

import importlib.util
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels"

# For what several files of tests share: `from _hysparse import ...`.
sys.path.insert(0, str(Path(__file__).parent))


def _load_worker():
    spec = importlib.util.spec_from_file_location("kernel_tests_worker", Path(__file__).parent / "_worker.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = _load_worker()


class Backend:
    """Calls a kernel package's function; `options` go to the public functions, which take `backend=`."""

    name = "reference"
    options = {"backend": "reference"}
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

    def __call__(self, package: Path, function: str, arguments: dict, grad: torch.Tensor | None = None):
        return worker.call(package, function, arguments, grad)


class Interpreter(Backend):
    name = "interpreter"
    options = {"backend": "triton"}
    dtypes = Backend.dtypes[:3]

    def __init__(self):
        environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, Path(__file__).parent / "_worker.py"]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, package, function, arguments, grad=None):
        # A tensor travels with all of its storage, so that a view keeps what lies around it.
        pickle.dump((package, function, arguments, grad), self.process.stdin)
        self.process.stdin.flush()
        answer = pickle.load(self.process.stdout)
        if isinstance(answer, tuple) and isinstance(answer[0], Exception):
            answer[0].add_note(f"in the interpreter's process:\n{answer[1]}")
            raise answer[0]
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class GPU(Backend):
    name = "gpu"
    options = {"backend": "triton"}
    dtypes = Backend.dtypes[:3]

    def __call__(self, package, function, arguments, grad=None):
        arguments = {name: self.move(value) for name, value in arguments.items()}
        return self.fetch(worker.call(package, function, arguments, self.move(grad)))

    @classmethod
    def fetch(cls, answer):
        """From the GPU: a tensor, None, or tuples and dicts of them."""
        if isinstance(answer, tuple):
            return tuple(map(cls.fetch, answer))
        if isinstance(answer, dict):
            return {name: cls.fetch(x) for name, x in answer.items()}
        return None if answer is None else answer.cpu()

    @classmethod
    def move(cls, value):
        """To the GPU with what lies around it in memory."""
        if isinstance(value, tuple):
            return tuple(map(cls.move, value))
        if not isinstance(value, torch.Tensor):
            return value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storage = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage()).cuda()
        return storage.as_strided(value.shape, value.stride(), value.storage_offset())


@pytest.fixture(scope="session")
def interpreter():
    process = Interpreter()
    yield process
    process.close()


TRITON_BACKENDS = ["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.fixture(params=["reference", *TRITON_BACKENDS])
def backend(request):
    if request.param == "interpreter":
        return request.getfixturevalue("interpreter")
    return {"reference": Backend, "gpu": GPU}[request.param]()


@pytest.fixture(scope="session")
def reference_backend():
    return Backend()


@pytest.fixture(params=TRITON_BACKENDS)
def triton_backend(request):
    """For what the reference does not have."""
    return request.getfixturevalue("interpreter") if request.param == "interpreter" else GPU()


@pytest.fixture(scope="session")
def surround():
    """Copies a tensor into the middle of a larger memory that is full of NaN; its last dimension stays contiguous."""

    def in_nan(tensor: torch.Tensor) -> torch.Tensor:
        room = torch.full([size + 8 for size in tensor.shape], float("nan"), dtype=tensor.dtype)
        middle = room[tuple(slice(4, 4 + size) for size in tensor.shape)]
        return middle.copy_(tensor)

    return in_nan


@pytest.fixture(scope="session")
def package_of():
    """The source folder of a kernel: `torch-ext/<name>`."""
    return lambda kernel: KERNELS / kernel / "torch-ext" / kernel.replace("-", "_")


@pytest.fixture(scope="session")
def calling(package_of):
    """Of a backend and a kernel, a function that calls the kernel's public functions on the backend."""

    def bind(backend, kernel):
        package = package_of(kernel)
        return lambda function, arguments, grad=None: backend(package, function, backend.options | arguments, grad)

    return bind


@pytest.fixture(scope="session")
def module_of(package_of):
    """A kernel's package in this process, without a build: what the backend `reference` runs."""
    return lambda kernel: worker.load(package_of(kernel))
