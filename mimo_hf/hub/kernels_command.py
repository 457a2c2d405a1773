"""`mimo-hf kernels list|build|check|bench`: our kernel repositories from the command line."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = {
    "list": "  mimo-hf kernels list\n  MIMO_HF_KERNELS=./my-kernels mimo-hf kernels list",
    "build": "  mimo-hf kernels build\n  mimo-hf kernels build sink-swa-attn",
    "check": "  mimo-hf kernels build && mimo-hf kernels check",
    "bench": "  mimo-hf kernels bench sink-swa-attn\n  mimo-hf kernels bench sink-swa-attn --repeats 50 --json bench.json",
}
SUMMARIES = {
    "list": "Show the repositories, where they lie, and which builds are there.",
    "build": "Build what the kernels library loads, build/torch-<backend>/, from torch-ext/.",
    "check": "Check metadata, ids, digests and the builds against their source, and load each kernel.",
    "bench": "Run a repository's benchmarks/benchmark.py, checking its outputs.",
}


def add_kernels_command(
    commands: Any,
    add_command: Callable[..., argparse.ArgumentParser],
    positive_integer: Callable[[str], int],
    writable: Callable[[str], Path],
) -> None:
    """Adds `kernels` with its sub-commands, in the command line's own way to add one and to read values."""
    summary = "List, build, check and time the kernel repositories."
    kernels = commands.add_parser("kernels", help=summary, description=summary)
    actions = kernels.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run in {"list": _list, "build": _build, "check": _check, "bench": _bench}.items():
        parser = add_command(actions, name, run, SUMMARIES[name], EXAMPLES[name])
        if name == "bench":
            parser.add_argument("kernel", metavar="NAME", help="a kernel's name or Hub id")
            parser.add_argument(
                "--repeats", metavar="N", type=positive_integer, default=10, help="timed runs of each workload"
            )
            parser.add_argument("--warmup", metavar="N", type=positive_integer, default=3, help="runs before them")
            parser.add_argument("--json", metavar="PATH", type=writable, help="save the numbers here")
        elif name != "list":
            parser.add_argument("kernels", metavar="NAME", nargs="*", help="of kernels; none: all")


def _chosen(names: list[str]) -> list[Any]:
    from .kernels import find, repositories

    return [find(name) for name in names] or repositories()


def _list(args: argparse.Namespace) -> int:
    from .kernels import kernels_folder, repositories

    print(kernels_folder())
    for repository in repositories():
        built = [backend for backend in repository.backends if repository.variant(backend).is_dir()]
        print(
            f"  {repository.name} version {repository.version} ({repository.license}), {repository.repo_id}, "
            f"backends {', '.join(repository.backends)}, built {', '.join(built) or 'none'}"
        )
    return 0


def _build(args: argparse.Namespace) -> int:
    from .kernels import build

    for repository in _chosen(args.kernels):
        for variant in build(repository):
            print(variant)
    return 0


def _check(args: argparse.Namespace) -> int:
    from .kernels import check, check_ids, load

    chosen = _chosen(args.kernels)
    problems = check_ids(chosen)
    for repository in chosen:
        found = check(repository)
        problems += found
        if not found:
            module = load(repository.name)
            print(f"{repository.name}: {', '.join(module.__all__)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _bench(args: argparse.Namespace) -> int:
    import torch
    from kernels.cli.benchmark import discover_benchmark_classes, run_benchmark_class

    from .kernels import build, find

    repository = find(args.kernel)
    build(repository)
    on_gpu = torch.cuda.is_available()
    measured = "Triton kernel" if on_gpu else "PyTorch reference"
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    if not on_gpu:
        print("no CUDA device: this times the PyTorch reference, which runs in the kernel's place on a CPU")
    rows = {}
    for benchmark in discover_benchmark_classes(repository.path / "benchmarks" / "benchmark.py", repository.path):
        results, _ = run_benchmark_class(benchmark, args.repeats, args.warmup, str(repository.root), True, "")
        for workload, timing in results.items():
            rows[workload] = {"mean_ms": timing.mean_ms, "min_ms": timing.min_ms, "eager_ms": timing.ref_mean_ms}
            print(
                f"{workload}: {measured} {timing.mean_ms:.3f} ms, eager PyTorch {timing.ref_mean_ms:.3f} ms, outputs agree"
            )
    if args.json:
        content = {"kernel": repository.name, "measured": measured, "device": device, "repeats": args.repeats}
        args.json.write_text(json.dumps(content | {"workloads": rows}, indent=2) + "\n")
    return 0
