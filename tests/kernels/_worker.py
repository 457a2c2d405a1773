"""
Runs a kernel package's functions; as a script, the ones that it reads from standard input, for `conftest.Interpreter`.

Triton decides when it is imported whether kernels are interpreted, for the whole process: the interpreter needs its own.
"""

import contextlib
import importlib
import importlib.util
import pickle
import sys
import traceback
from operator import attrgetter
from pathlib import Path

import torch


def load(package: Path):
    """The package of a `torch-ext/<name>` folder, under a name that says it is no build."""
    name = f"{package.name}_source"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, package / "__init__.py", submodule_search_locations=[str(package)]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def call(package: Path, function: str, arguments: dict, grad: torch.Tensor | tuple | None = None):
    """
    `function(**arguments)`, by its name in the package or as `module:function`; with `grad`, that of the output, also the
    gradients of all floating-point tensors by the names of their arguments. Of several outputs, `grad` has one each, or None.

    What `torch.empty` hands out is filled with NaN: a result that nobody wrote shows.
    """
    module, _, path = function.rpartition(":")
    home = load(package)
    home = importlib.import_module(f"{home.__name__}.{module}") if module else home
    tensors = {}
    if grad is not None:
        tensors = {key: x for key, x in arguments.items() if isinstance(x, torch.Tensor) and x.is_floating_point()}
        arguments = arguments | {key: x.detach().requires_grad_() for key, x in tensors.items()}
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        output = attrgetter(path)(home)(**arguments)
        if grad is None:
            return output
        leaves = [arguments[key] for key in tensors]
        if not isinstance(output, tuple):
            return output.detach(), dict(zip(tensors, torch.autograd.grad(output, leaves, grad), strict=True))
        taken = [(x, of_x) for x, of_x in zip(output, grad, strict=True) if of_x is not None]
        found = torch.autograd.grad([x for x, _ in taken], leaves, [of_x for _, of_x in taken])
        detached = tuple(None if x is None else x.detach() for x in output)
        return detached, dict(zip(tensors, found, strict=True))
    finally:
        torch.use_deterministic_algorithms(deterministic)


def serve():
    replies = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):
        while True:
            try:
                question = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                answer = call(*question)
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to the test that asked
                answer = (error, traceback.format_exc())
            pickle.dump(answer, replies)
            replies.flush()


if __name__ == "__main__":
    serve()
