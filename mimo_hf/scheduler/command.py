"""
`mimo-hf schedule simulate|replay|report|check TRACE`: policies on a trace, a recorded run against the simulator, pictures
of a run, and what is wrong with a trace.
"""

import argparse
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from .core.numbers import MOST_UNITS, shown
from .core.policies import POLICIES, make_policy
from .core.resources import Quota, TokenBucket
from .core.types import ElasticRange
from .simulate.bounds import step_lower_bound_s
from .simulate.export import chrome_trace, gantt, report_html, run_summary
from .simulate.simulator import recorded, simulate
from .simulate.trace import SAMPLE, Trace, TraceError, read_trace, trace_lines
from .simulate.workloads import WORKLOADS, as_pods, with_noise

DEFAULT_WORKLOAD = "coding"
A_TRACE = "a trace, whose fields mimo_hf/scheduler/README.md lists:\n" + "".join(
    f"  {line}\n" for line in SAMPLE.splitlines()
)
EXAMPLES = {
    "simulate": """\
  mimo-hf schedule simulate
  mimo-hf schedule simulate coding --cores 120,320,1280 --policy price,fifo4,evict --pods 4
  mimo-hf schedule simulate coding --cores 160 --policy price --out run.jsonl
  mimo-hf schedule simulate my_trace.jsonl --noise 0.5 --json

"""
    + A_TRACE,
    "replay": "  mimo-hf schedule replay recorded.jsonl\n  mimo-hf schedule replay recorded.jsonl --policy fifo4,price",
    "report": "  mimo-hf schedule report run.jsonl\n"
    "  mimo-hf schedule report run.jsonl --out run.html --chrome run.json --plot run.svg",
    "check": "  mimo-hf schedule check my_trace.jsonl\n\n" + A_TRACE,
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
MEASURES = ("act_mean_s", "act_p50_s", "act_p99_s", "queue_s", "exec_s")


def add_commands(kit: Any) -> None:
    """Adds `schedule` with its sub-commands."""
    jobs = kit.group("schedule", "Simulate and inspect the action scheduler.", "JOB")

    parser = _add(jobs, "simulate", _simulate, "Run policies on a trace under a virtual clock.")
    parser.add_argument(
        "trace",
        metavar="TRACE",
        nargs="?",
        type=_trace_or_workload,
        default=DEFAULT_WORKLOAD,
        help=f"A trace file, or a workload: {', '.join(WORKLOADS)}.",
    )
    parser.add_argument(
        "--cores",
        metavar="N,...",
        type=_core_counts,
        help="Cores, or several counts with commas (default: the trace's).",
    )
    _add_policy(parser, default="price")
    parser.add_argument(
        "--pods",
        type=kit.Whole(1, MOST_UNITS),
        metavar="N",
        help="Also with a pod of N cores held by each trajectory.",
    )
    parser.add_argument(
        "--pod-start-s",
        type=kit.Number(least=0, most=1e9),
        metavar="S",
        default=5.0,
        help="Seconds that a pod takes to start.",
    )
    parser.add_argument(
        "--rate",
        type=kit.Number(above=0, most=1e9),
        metavar="X",
        default=16.0,
        help="Searches a second, for deepsearch.",
    )
    parser.add_argument(
        "--noise",
        type=kit.Number(least=0, most=10),
        metavar="SIGMA",
        default=0.0,
        help="Lognormal sigma of the duration estimates.",
    )
    kit.shared(parser, "--seed", "Here: a workload, and the noise.")
    parser.add_argument(
        "--trajectories",
        type=kit.Whole(1, MOST_UNITS),
        metavar="N",
        help="Trajectories of a workload (default: coding 320, deepsearch 256).",
    )
    kit.shared(parser, "--json")
    kit.shared(
        parser,
        "--out",
        ".jsonl is the run as a trace, of one policy and one count of cores.",
        endings=(".json", ".jsonl"),
    )

    parser = _add(jobs, "replay", _replay, "Run a recorded trace in the simulator and compare completion times.")
    parser.add_argument("trace", metavar="TRACE", type=kit.readable, help="A trace with submit_s, start_s and end_s.")
    _add_policy(parser, default=None)
    kit.shared(parser, "--json")
    kit.shared(parser, "--out", endings=(".json",))

    parser = _add(jobs, "report", _report, "Tables, a Gantt chart and a Perfetto trace of a run.")
    parser.add_argument("trace", metavar="TRACE", type=kit.readable, help="A trace with start_s and end_s.")
    kit.shared(parser, "--json")
    kit.shared(parser, "--out", ".html is a page with table and chart.", endings=(".html", ".json"))
    kit.shared(parser, "--plot")
    parser.add_argument(
        "--chrome", metavar="PATH", type=kit.writable, help="Write Chrome's trace format, for https://ui.perfetto.dev."
    )

    parser = _add(jobs, "check", _check, "Say what is wrong with a trace, line by line, and what is in it.")
    parser.add_argument("trace", metavar="TRACE", type=kit.readable, help="A trace file.")
    kit.shared(parser, "--json")


def _add(jobs: Any, name: str, work: Any, summary: str) -> argparse.ArgumentParser:
    return jobs.command(name, partial(_run, work), summary, EXAMPLES[name])


def _add_policy(parser: argparse.ArgumentParser, default: str | None):
    without = "" if default else " Without it: the recorded one, else price."
    parser.add_argument(
        "--policy",
        metavar="NAME,...",
        type=_policies,
        default=default,
        help=f'Policies of the scheduler, with commas. {", ".join(POLICIES)}; fifo4, "price(b=0.2)" with options.{without}',
    )


def _run(work: Any, kit: Any, args: argparse.Namespace) -> int:
    """Does the work. Many bad lines of a trace are told one by one; ValueError for what the user can put right."""
    try:
        return work(kit, args)
    except TraceError as error:
        if len(error.problems) == 1:
            raise ValueError(str(error).replace("`", "'")) from error  # `cores` of a trace is not the option --cores
        for line in str(error).splitlines():
            kit.say(line)
        raise ValueError(
            f"{args.trace} must be a trace; got {len(error.problems)} lines that can't be used. The first are "
            f"above, and `mimo-hf schedule check {args.trace}` tells them one by one."
        ) from None


# What was typed


def _trace_or_workload(text: str) -> str:
    if Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; give a trace file or a workload.")
    if not Path(text).exists() and text not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a file nor a workload ({', '.join(WORKLOADS)}).")
    return text


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
        try:
            make_policy(part)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"can't be {shown(text)}: {error}") from None
    return parts


def _core_counts(text: str) -> list[int]:
    counts = [int(part) if part.isdecimal() and len(part) < 8 else 0 for part in text.split(",")]
    if not 1 <= min(counts) <= max(counts) <= MOST_UNITS:
        raise argparse.ArgumentTypeError(
            f"must be whole numbers from 1 to {MOST_UNITS}, with commas between; got {shown(text)}."
        )
    return counts


def _load(args: argparse.Namespace) -> Trace:
    if args.trace in WORKLOADS and not Path(args.trace).exists():
        size = {} if args.trajectories is None else {"trajectories": args.trajectories}
        trace = WORKLOADS[args.trace](seed=args.seed, **size)
        trace.name = args.trace
        return trace
    if getattr(args, "trajectories", None) is not None:
        raise ValueError(
            f"--trajectories must be left out for a trace file; got {args.trace}. It belongs to the workloads "
            f"{', '.join(WORKLOADS)}."
        )
    trace = read_trace(args.trace)
    if not trace.records:
        raise ValueError(f"{args.trace} must hold an action a line after its header; got a header and no actions.")
    return trace


def _quotas(trace: Trace, rate: float) -> dict[str, Quota]:
    on_nodes = {resource for node in trace.nodes.values() for resource in node}
    asked = {resource for record in trace.records for resource in record.cost}
    return {
        resource: TokenBucket(rate, max(1.0, rate)) for resource in sorted(asked - on_nodes) if "search" in resource
    }


# Jobs


def _simulate(kit: Any, args: argparse.Namespace) -> int:
    policies, counts = args.policy, args.cores or [None]
    as_trace = args.out is not None and args.out.suffix == ".jsonl"
    if as_trace and (len(policies), len(counts), args.pods) != (1, 1, None):
        raise ValueError(
            f"--out {args.out} must be of one run; got {len(policies)} policies and {len(counts)} counts of "
            "cores. Give one --policy, one count of --cores and no --pods, or write .json."
        )
    trace = _load(args)
    if not trace.nodes and args.cores is None:
        raise ValueError(
            f'{trace.name}:1: `nodes` must be in the header; got none. Add "nodes": {{"local": {{"cpu": 4}}}} or '
            "give --cores."
        )
    noisy = with_noise(trace, args.noise, args.seed) if args.noise else trace
    noisy.name = trace.name
    rows, in_file = [], None
    for cores in counts:
        nodes = trace.nodes if cores is None else {"local": {**next(iter(trace.nodes.values()), {}), "cpu": cores}}
        total = sum(int(node.get("cpu", 0)) for node in nodes.values())
        one_resource = total and all(set(record.cost) == {"cpu"} for record in trace.records)
        for policy in policies:
            quotas = _quotas(trace, args.rate)
            with kit.progress(f"{total} cores, {policy}") as moved:
                result = simulate(noisy, nodes, policy, quotas=quotas, progress=moved, keep_decisions=as_trace)
            bound = step_lower_bound_s(trace, total) if one_resource else None
            rows.append(_row(total, policy, result.summary(), bound))
            if as_trace:
                run_as_trace = recorded(noisy, result)
                run_as_trace.nodes, run_as_trace.header = dict(nodes), {**trace.header, "policy": policy}
                in_file = "".join(trace_lines(run_as_trace))
        if args.pods is not None:
            pods = {"local": {"pod": total // args.pods}}
            if total < args.pods:
                raise ValueError(f"--pods {args.pods} must not be more than the cores; got {total}.")
            if alone := [record for record in trace.records if record.trajectory is None]:
                raise ValueError(
                    f"--pods {args.pods} must be of a trace in which each action has a 'trajectory' that could hold a "
                    f"pod; {trace.place(alone[0])} has none."
                )
            with kit.progress(f"{total} cores, pods of {args.pods}") as moved:
                held = simulate(
                    as_pods(trace, args.pods), pods, "fifo1", held=("pod",), first_overhead_s=args.pod_start_s,
                    progress=moved,
                )  # fmt: skip
            rows.append(_row(total, f"pods of {args.pods}", held.summary(), bound))
    content = kit.as_json({"trace": args.trace, "actions": len(trace.records), "runs": rows})
    if kit.write(args, content, in_file):
        return 0
    print(f"{len(trace.records)} actions; times in seconds, ACT = completion time of an action\n")
    _print_table(kit, rows, COLUMNS)
    if as_trace:
        print(f"\nwrote {args.out}; `mimo-hf schedule report {args.out} --out run.html` draws it")
    return 0


def _row(cores: int, policy: str, summary: dict[str, Any], bound: float | None) -> dict[str, Any]:
    shares = summary["utilization"].values()
    row = {"cores": cores or "-", "policy": policy, **{name: summary[name] for name in COLUMNS if name in summary}}
    return {**row, "step_bound_s": "-" if bound is None else bound, "in_use": max(shares, default=0.0)}


def _print_table(kit: Any, rows: list[dict[str, Any]], columns: tuple[str, ...]):
    print("\n".join(kit.aligned([list(columns), *([_cell(row[name]) for name in columns] for row in rows)])))


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _replay(kit: Any, args: argparse.Namespace) -> int:
    trace = _load(args)
    if missing := [record for record in trace.records if record.submit_s is None]:
        raise ValueError(
            f"{trace.place(missing[0])}: `submit_s` of every action must be given to replay it; got none."
        )
    measured = run_summary(trace)["all"]
    overhead = float(trace.header.get("overhead_s") or 0.0)
    elastic = sum(any(isinstance(amount, ElasticRange) for amount in record.cost.values()) for record in trace.records)
    rows = [{"run": "recorded", **{name: measured[name] for name in MEASURES}}]
    ratios: list[float | None] = []
    recorded_policy = trace.header.get("policy") or "price"
    try:
        make_policy(recorded_policy)
    except ValueError as error:
        raise ValueError(f"{trace.name}:1: 'policy' of the header must be a policy: {error} Give --policy.") from None
    for policy in args.policy or [recorded_policy]:
        with kit.progress(str(policy)) as moved:
            result = simulate(trace, policy=policy, quotas=_quotas(trace, 1e9), overhead_s=overhead, progress=moved)
        simulated = result.summary()
        rows.append({"run": f"simulated, {policy}", **{name: simulated[name] for name in MEASURES}})
        ratios.append(measured["act_mean_s"] / simulated["act_mean_s"] if simulated["act_mean_s"] else None)
    content = {"actions": len(trace.records), "elastic": elastic, "runs": rows, "recorded_over_simulated": ratios}
    if kit.write(args, kit.as_json(content)):
        return 0
    print(f"{len(trace.records)} actions, {elastic} of them elastic; times in seconds\n")
    _print_table(kit, rows, ("run", *MEASURES))
    shown = ", ".join("none (no time passed)" if ratio is None else f"{ratio:.3f}" for ratio in ratios)
    print(f"\nrecorded ACT / simulated ACT: {shown}")
    return 0


def _report(kit: Any, args: argparse.Namespace) -> int:
    wants_page = args.out is not None and args.out.suffix.lower() == ".html"
    drawing = kit.drawing() if wants_page or args.plot is not None else None
    trace = _load(args)
    summary = run_summary(trace)
    if drawing is not None and args.plot is not None:
        drawing.save(gantt(trace), args.plot)
    if args.chrome is not None:
        args.chrome.write_text(json.dumps(chrome_trace(trace)), encoding="utf-8")
    page = report_html(trace, args.trace.name) if wants_page else kit.as_json(summary)
    if kit.write(args, kit.as_json(summary), page):
        return 0
    _print_table(kit, [{"kind": kind, **row} for kind, row in summary.items()], ("kind", *summary["all"]))
    for path in filter(None, (args.out, args.plot, args.chrome)):
        print(f"wrote {path}")
    return 0


def _check(kit: Any, args: argparse.Namespace) -> int:
    problems: list[str] = []
    found: dict[str, Any] = {}
    try:
        trace = _load(args)
        found = {
            "actions": len(trace.records),
            "kinds": dict(Counter(record.kind for record in trace.records)),
            "trajectories": len(trace.trajectories()),
            "recorded": sum(record.end_s is not None for record in trace.records),
            "nodes": trace.nodes,
        }
        if trace.nodes:
            simulate(trace, quotas=_quotas(trace, 1e9))
    except TraceError as error:
        problems = error.problems
    if args.json:
        sys.stdout.write(kit.as_json({"trace": str(args.trace), **found, "problems": problems}))
    else:
        for problem in problems:
            print(kit.visible(problem), file=sys.stderr)
        if not problems:
            kinds = ", ".join(f"{kind} {count}" for kind, count in found["kinds"].items())
            nodes = ", ".join(
                f"{name} ({', '.join(f'{resource} {amount:g}' for resource, amount in node.items())})"
                for name, node in found["nodes"].items()
            )
            print(
                f"{args.trace}: {found['actions']} actions ({kinds}), {found['trajectories']} trajectories, "
                f"{found['recorded']} recorded; nodes: {nodes or 'none, so give --cores'}"
            )
    return 1 if problems else 0
