"""`mimo-hf schedule simulate|replay|report TRACE`: policies on a trace, a recorded run against the simulator, a picture."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .bounds import step_lower_bound_s
from .export import chrome_trace, gantt_svg, report_html, run_summary
from .policies import make_policy
from .resources import Quota, TokenBucket
from .sim import recorded, simulate
from .trace import Trace, read_trace, write_trace
from .types import ElasticRange
from .workloads import WORKLOADS, as_pods, with_noise

EXAMPLES = {
    "simulate": """\
  mimo-hf schedule simulate coding
  mimo-hf schedule simulate coding --cores 120,320,1280 --policy price,fifo4,evict --pods 4
  mimo-hf schedule simulate coding --cores 160 --policy price --out run.jsonl
  mimo-hf schedule simulate my_trace.jsonl --noise 0.5 --json""",
    "replay": "  mimo-hf schedule replay recorded.jsonl\n  mimo-hf schedule replay recorded.jsonl --policy fifo4",
    "report": "  mimo-hf schedule report run.jsonl\n  mimo-hf schedule report run.jsonl --out run.html --chrome run.json",
}
COLUMNS = (
    "cores",
    "policy",
    "act_mean_s",
    "act_p50_s",
    "act_p99_s",
    "queue_s",
    "exec_s",
    "step_s",
    "step_bound_s",
    "in_use",
)


def add_schedule_commands(subparsers: Any) -> None:
    """Adds `schedule` with its sub-commands to the subparsers of a command; `args.run(args)` then does the work."""
    schedule = subparsers.add_parser("schedule", help="simulate and inspect the action scheduler", description=__doc__)
    commands = schedule.add_subparsers(dest="job", required=True, metavar="JOB")

    parser = _add(commands, "simulate", _simulate, "run policies on a trace under a virtual clock")
    parser.add_argument("trace", metavar="TRACE", help=f"a trace file, or a workload: {', '.join(WORKLOADS)}")
    parser.add_argument("--cores", default=None, help="cores, or several separated by commas (default: the trace's)")
    parser.add_argument(
        "--policy",
        default="price",
        help='price, fifo4, waterfill, evict, srpt, hrrn, "price(b=0.2)"; several with commas',
    )
    parser.add_argument("--pods", type=int, metavar="N", help="also with one pod of N cores held by each trajectory")
    parser.add_argument("--pod-start-s", type=float, default=5.0, help="seconds a pod takes to start (default 5)")
    parser.add_argument("--rate", type=float, default=16.0, help="searches a second, for deepsearch (default 16)")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="lognormal sigma of the duration estimates (default 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of a workload and of the noise (default 0)")
    parser.add_argument("--trajectories", type=int, help="of a workload (default 320, deepsearch 256)")
    parser.add_argument("--out", type=Path, help="write the run as a trace; needs one policy and one number of cores")
    parser.add_argument("--json", action="store_true", help="print JSON")

    parser = _add(commands, "replay", _replay, "run a recorded trace in the simulator and compare completion times")
    parser.add_argument("trace", metavar="TRACE", help="a trace with submit_s, start_s and end_s")
    parser.add_argument("--policy", help="default: the recorded one, else price")
    parser.add_argument("--json", action="store_true", help="print JSON")

    parser = _add(commands, "report", _report, "tables, a Gantt chart and a Perfetto trace of a run")
    parser.add_argument("trace", metavar="TRACE", help="a trace with start_s and end_s")
    parser.add_argument("--out", type=Path, help="write the page (.html) or the chart alone (.svg)")
    parser.add_argument("--chrome", type=Path, help="write Chrome's trace format, for https://ui.perfetto.dev")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add(commands: Any, name: str, work: Any, about: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"examples:\n{EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, work=work)
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    return parser


def run(args: argparse.Namespace) -> int:
    """Does what the parsed arguments ask for; 0. Raises ValueError or OSError for what the user can put right."""
    return args.work(args)


def _load(args: argparse.Namespace) -> Trace:
    if args.trace in WORKLOADS and not Path(args.trace).exists():
        size = {} if args.trajectories is None else {"trajectories": args.trajectories}
        if args.trajectories is not None and args.trajectories < 1:
            raise ValueError(f"--trajectories must be at least 1, not {args.trajectories}.")
        return WORKLOADS[args.trace](seed=args.seed, **size)
    if not Path(args.trace).is_file():
        raise ValueError(f"TRACE {args.trace!r} is neither a file nor a workload ({', '.join(WORKLOADS)}).")
    return read_trace(args.trace)


def _policies(text: str) -> list[str]:
    """Splits at the commas outside of parentheses."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    for part in parts:
        make_policy(part)
    return parts


def _core_counts(args: argparse.Namespace) -> list[int | None]:
    if args.cores is None:
        return [None]
    try:
        counts = [int(part) for part in args.cores.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise ValueError(f"--cores must be whole numbers from 1, separated by commas, not {args.cores!r}.")
    return list(counts)


def _quotas(trace: Trace, rate: float) -> dict[str, Quota]:
    on_nodes = {resource for node in trace.nodes.values() for resource in node}
    asked = {resource for record in trace.records for resource in record.cost}
    return {
        resource: TokenBucket(rate, max(1.0, rate)) for resource in sorted(asked - on_nodes) if "search" in resource
    }


def _simulate(args: argparse.Namespace) -> int:
    if args.noise < 0:
        raise ValueError(f"--noise must not be negative, not {args.noise}.")
    trace, policies, counts = _load(args), _policies(args.policy), _core_counts(args)
    if args.noise:
        trace = with_noise(trace, args.noise, args.seed)
    if args.out is not None and (len(policies), len(counts), args.pods) != (1, 1, None):
        raise ValueError("--out writes one run: give one --policy, one number of --cores and no --pods.")
    if args.pods is not None and args.pods < 1:
        raise ValueError(f"--pods must be at least 1, not {args.pods}.")
    rows = []
    for cores in counts:
        nodes = trace.nodes if cores is None else {"local": {**next(iter(trace.nodes.values()), {}), "cpu": cores}}
        total = sum(int(node.get("cpu", 0)) for node in nodes.values())
        one_resource = total and all(set(record.cost) == {"cpu"} for record in trace.records)
        bound = step_lower_bound_s(trace, total) if one_resource else None
        for policy in policies:
            quotas = _quotas(trace, args.rate)
            result = simulate(
                trace, nodes, policy, quotas=quotas, progress=_progress(), keep_decisions=args.out is not None
            )
            rows.append(_row(total, policy, result.summary(), bound))
            if args.out is not None:
                run_as_trace = recorded(trace, result)
                run_as_trace.nodes, run_as_trace.header = dict(nodes), {**trace.header, "policy": policy}
                write_trace(args.out, run_as_trace)
        if args.pods is not None:
            pods = {"local": {"pod": total // args.pods}}
            if total < args.pods:
                raise ValueError(f"--pods {args.pods}: {total} cores hold not even one.")
            held = simulate(
                as_pods(trace, args.pods), pods, "fifo1", held=("pod",), first_overhead_s=args.pod_start_s,
                progress=_progress(),
            )  # fmt: skip
            rows.append(_row(total, f"pods of {args.pods}", held.summary(), bound))
    if args.json:
        print(json.dumps({"trace": args.trace, "actions": len(trace.records), "runs": rows}, indent=1))
        return 0
    print(f"{len(trace.records)} actions; times in seconds, ACT = completion time of an action\n")
    _print_table(rows, COLUMNS)
    if args.out is not None:
        print(f"\nwrote {args.out}; `mimo-hf schedule report {args.out} --out run.html` draws it")
    return 0


def _row(cores: int, policy: str, summary: dict[str, Any], bound: float | None) -> dict[str, Any]:
    shares = summary["utilization"].values()
    row = {"cores": cores or "-", "policy": policy, **{name: summary[name] for name in COLUMNS if name in summary}}
    return {**row, "step_bound_s": "-" if bound is None else bound, "in_use": max(shares, default=0.0)}


def _print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]):
    cells = [list(columns), *([_cell(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _progress():
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int):
        print(f"\r{done / total:4.0%}", end="\r" if done < total else "\r     \r", file=sys.stderr, flush=True)

    return show


def _replay(args: argparse.Namespace) -> int:
    trace = read_trace(args.trace)
    measured = run_summary(trace)["all"]
    if any(record.submit_s is None for record in trace.records):
        raise ValueError(f"{args.trace}: replay needs submit_s of every action.")
    policy = args.policy or trace.header.get("policy", "price")
    overhead = float(trace.header.get("overhead_s", 0.0))
    result = simulate(trace, policy=policy, quotas=_quotas(trace, 1e9), overhead_s=overhead, progress=_progress())
    simulated = result.summary()
    elastic = sum(any(isinstance(amount, ElasticRange) for amount in record.cost.values()) for record in trace.records)
    rows = [
        {"run": "recorded", **{name: measured[name] for name in ("act_mean_s", "act_p50_s", "act_p99_s", "queue_s", "exec_s")}},
        {"run": f"simulated, {policy}", **{name: simulated[name] for name in ("act_mean_s", "act_p50_s", "act_p99_s", "queue_s", "exec_s")}},
    ]  # fmt: skip
    ratio = measured["act_mean_s"] / simulated["act_mean_s"] if simulated["act_mean_s"] else float("nan")
    if args.json:
        print(
            json.dumps(
                {"actions": len(trace.records), "elastic": elastic, "runs": rows, "recorded_over_simulated": ratio},
                indent=1,
            )
        )
        return 0
    print(f"{len(trace.records)} actions, {elastic} of them elastic; times in seconds\n")
    _print_table(rows, ("run", "act_mean_s", "act_p50_s", "act_p99_s", "queue_s", "exec_s"))
    print(f"\nrecorded ACT / simulated ACT: {ratio:.3f}")
    return 0


def _report(args: argparse.Namespace) -> int:
    trace = read_trace(args.trace)
    summary = run_summary(trace)
    if args.out is not None:
        if args.out.suffix not in (".html", ".svg"):
            raise ValueError(f"--out must end in .html or .svg, not {args.out.name!r}.")
        page = gantt_svg(trace) if args.out.suffix == ".svg" else report_html(trace, Path(args.trace).name)
        args.out.write_text(page, encoding="utf-8")
    if args.chrome is not None:
        args.chrome.write_text(json.dumps(chrome_trace(trace)), encoding="utf-8")
    if args.json:
        print(json.dumps(summary, indent=1))
        return 0
    _print_table([{"kind": kind, **row} for kind, row in summary.items()], ("kind", *summary["all"]))
    for path in filter(None, (args.out, args.chrome)):
        print(f"wrote {path}")
    return 0
