"""
Compiles what a kernel's launchers launch, without a GPU: `python _aot.py PACKAGE CASES CAPABILITY ...` prints JSON.

PACKAGE is a folder `torch-ext/<name>`. CASES is a Python file with `cases(package, capability, complete)`, which yields
pairs of a name and a function that launches kernels on CPU tensors. Instead of running, each launch is compiled for every
compute capability (80, 90), with the specialisations and options it would have on a GPU. The Triton is the one that Python
finds. `complete` is true where the variable MIMO_HF_AOT is "complete".
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
POINTERS |= {torch.int8: "*i8", torch.int32: "*i32", torch.int64: "*i64", torch.uint8: "*u8", torch.bool: "*i1"}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def load(path: Path, name: str):
    folder = [str(path)] if path.is_dir() else None
    file = path / "__init__.py" if path.is_dir() else path
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def record(launch) -> list[tuple]:
    """(kernel, positional arguments, keyword arguments) of every launch."""
    launches = []
    run = triton.JITFunction.run
    triton.JITFunction.run = lambda kernel, *args, grid, warmup, **kwargs: launches.append((kernel, args, kwargs))
    try:
        launch()
    finally:
        triton.JITFunction.run = run
    return launches


def specialise(kernel, args, kwargs) -> tuple[ASTSource, dict]:
    """As Triton's own launcher does: integers equal to 1 are constants, and divisibility by 16 is known."""
    given = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
    options = {name: given.pop(name) for name in list(given) if name not in kernel.arg_names}
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        name, value = parameter.name, given[parameter.name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name] = "constexpr"
            constants[name] = value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            divisible = value.data_ptr() % 16 == 0
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            divisible = value % 16 == 0
        else:
            signature[name], divisible = "fp32", False
        if divisible:
            attributes[(place,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes), options


def compile_for(capability: int, kernel, args, kwargs) -> dict:
    source, options = specialise(kernel, args, kwargs)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {
        "kernel": kernel.__name__,
        "capability": capability,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack_bytes": int(re.search(r"STACK:(\d+)", usage)[1]),
        "shared_bytes": compiled.metadata.shared,
    }


def main(package: str, cases: str, *capabilities: str):
    module = load(Path(package), Path(package).name)
    makers = load(Path(cases), "aot_cases").cases
    complete = os.environ.get("MIMO_HF_AOT") == "complete"
    rows = []
    for capability in map(int, capabilities):
        for name, launch in makers(module, capability, complete):
            launches = record(launch)
            assert launches, f"{name} launches no kernel"
            rows += [{"case": name, **compile_for(capability, *call)} for call in launches]
    print(json.dumps({"triton": triton.__version__, "compiled": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
