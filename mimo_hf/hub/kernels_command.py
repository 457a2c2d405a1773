"""`mimo-hf kernels list|build|check|bench`: our kernel repositories from the command line."""

import argparse
import sys
from functools import partial
from typing import Any

EXAMPLES = {
    "list": "  mimo-hf kernels list\n  MIMO_HF_KERNELS=./my-kernels mimo-hf kernels list",
    "build": "  mimo-hf kernels build\n  mimo-hf kernels build sink-swa-attn",
    "check": "  mimo-hf kernels build\n  mimo-hf kernels check",
    "bench": "  mimo-hf kernels bench sink-swa-attn\n  mimo-hf kernels bench sink-swa-attn --repeats 50 --out bench.json",
}
SUMMARIES = {
    "list": "Show the repositories, where they lie, and which builds are there.",
    "build": "Build what the kernels library loads, build/torch-<backend>/, from torch-ext/.",
    "check": "Check metadata, ids, digests and the builds against their source, and load each kernel.",
    "bench": "Run a repository's benchmarks/benchmark.py, checking its outputs.",
}


def add_kernels_command(commands: Any, kit: Any) -> None:
    """Adds `kernels` with its sub-commands; `kit` is `mimo_hf.command_kit`."""
    actions = kit.add_group(commands, "kernels", "List, build, check and time the kernel repositories.")
    for name, run in {"list": _list, "build": _build, "check": _check, "bench": partial(_bench, kit)}.items():
        parser = kit.add_command(actions, name, run, SUMMARIES[name], EXAMPLES[name])
        if name == "bench":
            parser.add_argument("kernel", metavar="KERNEL", help="A kernel's name or Hub id.")
            kit.shared(parser, "--repeats", "Of each workload.", default=10)
            parser.add_argument("--warmup", metavar="N", type=kit.Whole(), default=3, help="Runs before them.")
            kit.shared(parser, "--json")
            kit.shared(parser, "--out", endings=(".json",))
        elif name != "list":
            parser.add_argument("kernels", metavar="KERNEL", nargs="*", help="Names of kernels; none: all.")


def _chosen(names: list[str]) -> list[Any]:
    from .kernels import find, repositories

    return [find(name) for name in names] or repositories()


def _list(args: argparse.Namespace) -> int:
    from .kernels import kernels_folder, repositories

    found = repositories()
    print(kernels_folder())
    for repository in found:
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


def _bench(kit: Any, args: argparse.Namespace) -> int:
    with kit.stage("importing torch and kernels"):
        from .kernels import build, find

        repository = find(args.kernel)
        import torch
        from kernels.cli.benchmark import discover_benchmark_classes, run_benchmark_class

        build(repository)
    on_gpu = torch.cuda.is_available()
    measured = "Triton kernel" if on_gpu else "PyTorch reference"
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    if not on_gpu:
        kit.say(
            f"{args.prog}: no CUDA device: this times the PyTorch reference, which runs in the kernel's place on a CPU"
        )
    rows = {}
    for benchmark in discover_benchmark_classes(repository.path / "benchmarks" / "benchmark.py", repository.path):
        with kit.stage(f"timing {benchmark.__name__}"):
            results, _ = run_benchmark_class(benchmark, args.repeats, args.warmup, str(repository.root), True, "")
        for workload, timing in results.items():
            rows[workload] = {"mean_ms": timing.mean_ms, "min_ms": timing.min_ms, "eager_ms": timing.ref_mean_ms}
            if not args.json:
                print(
                    f"{workload}: {measured} {timing.mean_ms:.3f} ms, eager PyTorch {timing.ref_mean_ms:.3f} ms, outputs agree"
                )
    content = {"kernel": repository.name, "measured": measured, "device": device, "repeats": args.repeats}
    content = kit.as_json(content | {"workloads": rows})
    if args.json:
        sys.stdout.write(content)
    if args.out is not None:
        args.out.write_text(content, encoding="utf-8")
    return 0
