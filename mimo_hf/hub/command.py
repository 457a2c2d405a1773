"""`mimo-hf publish`, `mimo-hf space` and `mimo-hf kernels`."""

import argparse
import shlex
import sys
from typing import Any

KERNEL_EXAMPLES = {
    "list": "  mimo-hf kernels list\n  MIMO_HF_KERNELS=./my-kernels mimo-hf kernels list",
    "build": "  mimo-hf kernels build\n  mimo-hf kernels build sink-swa-attn",
    "check": "  mimo-hf kernels build\n  mimo-hf kernels check",
    "bench": "  mimo-hf kernels bench sink-swa-attn\n  mimo-hf kernels bench sink-swa-attn --repeats 50 --out bench.json",
}
KERNEL_SUMMARIES = {
    "list": "Show the repositories, where they lie, and which builds are there.",
    "build": "Build what the kernels library loads, build/torch-<backend>/, from torch-ext/.",
    "check": "Check metadata, ids, digests and the builds against their source, and load each kernel.",
    "bench": "Run a repository's benchmarks/benchmark.py, checking its outputs.",
}


def add_commands(kit: Any) -> None:
    """Adds `publish`, `space`, and `kernels` with its sub-commands."""
    _add_publish(kit)
    _add_space(kit)
    _add_kernels(kit.group("kernels", "List, build, check and time the kernel repositories."))


def _add_publish(kit: Any) -> None:
    parser = kit.command(
        "publish",
        _publish,
        "Write a folder that transformers loads with trust_remote_code=True where mimo_hf is not installed.",
        "  mimo-hf publish ./my-checkpoint ./to-upload\n"
        "  hf upload my-name/my-model ./to-upload\n\n"
        "the code of a folder that an earlier version has written:\n"
        "  mimo-hf publish --check ./to-upload\n"
        "  mimo-hf publish --upgrade ./to-upload",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="The checkpoint folder, or a model of the Hub.")
    parser.add_argument("out", metavar="OUT", nargs="?", help="The folder to write.")
    parser.add_argument("--overwrite", action="store_true", help="Replace OUT where it exists.")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--upgrade",
        metavar="FOLDER",
        help="Instead: rewrite the code of a published folder as this version writes it; weights and card stay.",
    )
    instead.add_argument(
        "--check",
        metavar="FOLDER",
        help="Instead: load a published folder without mimo_hf and list what --upgrade would change; nothing is changed, and the exit "
        "code is 1 if there is something.",
    )


def _add_space(kit: Any) -> None:
    parser = kit.command(
        "space",
        _space,
        "Serve one of the Gradio Spaces on this machine.",
        "  mimo-hf space oam\n  mimo-hf space oam --port 8080",
    )
    parser.add_argument("name", metavar="SPACE", help="`oam`: the OAM link simulator.")
    parser.add_argument(
        "--port",
        metavar="N",
        type=kit.Whole(1, 65535),
        help="Port to listen on (default: the first free one from 7860).",
    )
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="Address to listen on.")


def _add_kernels(kit: Any) -> None:
    for name, run in {"list": _list, "build": _build, "check": _check_kernels, "bench": _bench}.items():
        parser = kit.command(name, run, KERNEL_SUMMARIES[name], KERNEL_EXAMPLES[name])
        if name == "bench":
            parser.add_argument("kernel", metavar="KERNEL", help="A kernel's name or Hub id.")
            kit.shared(parser, "--repeats", "Of each workload.", default=10)
            parser.add_argument("--warmup", metavar="N", type=kit.Whole(), default=3, help="Runs before them.")
            kit.shared(parser, "--json")
            kit.shared(parser, "--out", endings=(".json",))
        elif name != "list":
            parser.add_argument("kernels", metavar="KERNEL", nargs="*", help="Names of kernels; none: all.")


def _publish(kit: Any, args: argparse.Namespace) -> int:
    if args.upgrade is not None or args.check is not None:
        option = "--check" if args.upgrade is None else "--upgrade"
        if args.model is not None or args.overwrite:
            raise kit.UsageError(args.prog, f"{option} FOLDER stands alone; leave out MODEL, OUT and --overwrite.")
        return _check(kit, args) if args.upgrade is None else _upgrade(kit, args)

    names = {"MODEL": args.model, "OUT": args.out}
    if missing := [name for name, value in names.items() if value is None]:
        raise kit.UsageError(args.prog, f"{' and '.join(missing)} must be given (see `{args.prog} --help`)")
    with kit.stage("writing the folder"):
        from .publish import publish

        publish(args.model, args.out, overwrite=args.overwrite)
    print(f"{args.out}: ready to upload with: hf upload OWNER/NAME {shlex.quote(args.out)}")
    print(
        "Tell its readers: it loads with trust_remote_code=True, or after mimo_hf.register(); else MTP heads are lost."
    )
    return 0


def _check(kit: Any, args: argparse.Namespace) -> int:
    with kit.stage("loading the folder in a process without mimo_hf"):
        from .upgrade import outdated, private, trouble

        changes, fields, problem = outdated(args.check), private(args.check), trouble(args.check)
    for name, what in changes.items():
        print(f"{name} {what}")
    for place, why in fields.items():
        print(f"{place} is {why}: remove it, or publish the checkpoint again")
    print(problem or f"{args.check}: loads where mimo_hf is not installed")
    remedy = f"out of date; run: {args.prog} --upgrade {shlex.quote(args.check)}"
    print(f"{args.check}: {remedy if changes else 'up to date'}")
    return 1 if changes or fields or problem else 0


def _upgrade(kit: Any, args: argparse.Namespace) -> int:
    with kit.stage("loading the folder with today's code"):
        from .upgrade import upgrade

        changes = upgrade(args.upgrade)
    for name, what in changes.items():
        print(f"{name} {what}")
    print(f"{args.upgrade}: {'upgraded' if changes else 'up to date'}")
    return 0


def _space(kit: Any, args: argparse.Namespace) -> int:
    from .spaces import launch

    launch(args.name, port=args.port, host=args.host)
    return 0


def _chosen(names: list[str]) -> list[Any]:
    from .kernels import find, repositories

    return [find(name) for name in names] or repositories()


def _list(kit: Any, args: argparse.Namespace) -> int:
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


def _build(kit: Any, args: argparse.Namespace) -> int:
    from .kernels import build

    for repository in _chosen(args.kernels):
        for variant in build(repository):
            print(variant)
    return 0


def _check_kernels(kit: Any, args: argparse.Namespace) -> int:
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
    kit.write(args, kit.as_json(content | {"workloads": rows}))
    return 0
