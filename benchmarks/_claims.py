"""The page of claims, made of `claims.yaml` and of the results beside it."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from _figures import FigureError, fill
from _tables import table

HEADER = """# What is measured

Each row is a claim, the figure that speaks for it or against it, the conditions, and the file with all that was measured. Made by
`python benchmarks/report.py` from [claims.yaml](claims.yaml) and the files: don't edit. All figures of one file:
`python benchmarks/report.py --full NAME`. Words of the papers: [glossary](../../docs/glossary.md).

- "paper:" marks the figure of a paper's authors, on their models and machines. Everything else was measured here.
- Where a spread stands, what is compared took turns in one run: the figure is the median of the repeats, the spread the middle half
  of their ratios over it. Other times and rates are those of one run on one day.
- What no row states is not measured."""


class ClaimError(ValueError):
    """claims.yaml can not be rendered: which claim, and why."""


@dataclass(frozen=True)
class Claim:
    """
    A row of the page. Texts hold paths of figures (`_figures.py`).

    Args:
        says: the claim, a sentence.
        figure: what was measured. Left out: not measured.
        where: the conditions; for what is not measured, how to measure it.
        file: the result's name without suffix.
        timed: the figure is a time or a rate, which a busy machine would spoil.
        paper: what the paper states, if the result does not hold it.
    """

    says: str
    where: str
    figure: str = ""
    file: str = ""
    timed: bool = False
    paper: str = ""


@dataclass(frozen=True)
class Table:
    title: str
    claims: list[Claim]
    about: str = ""


@dataclass(frozen=True)
class Claims:
    tables: list[Table]
    raw_only: dict[str, str]  # results that no claim names, and why


def read(file: Path) -> Claims:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        tables = [
            Table(**{**part, "claims": [Claim(**claim) for claim in part["claims"]]}) for part in content["tables"]
        ]
    except TypeError as error:
        raise ClaimError(f"{file.name}: {error}; a claim has {', '.join(Claim.__dataclass_fields__)}") from None
    return Claims(tables, content.get("raw_only") or {})


def results(folder: Path) -> dict[str, dict]:
    """All results on record by name; those of a busy machine (`NAME.busy.json`) are not."""
    files = sorted(file for file in folder.glob("*.json") if not file.name.endswith(".busy.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def page(claims: Claims, found: Mapping[str, dict]) -> str:
    """Raises ClaimError for a claim whose file or figures are not there, and for a result that nothing names."""
    named = {claim.file for part in claims.tables for claim in part.claims} - {""} | set(claims.raw_only)
    if named != set(found):
        missing, unnamed = sorted(named - set(found)), sorted(set(found) - named)
        raise ClaimError(
            "claims.yaml and the results differ: "
            + "; ".join(
                [f"no result is named {name}" for name in missing]
                + [f"nothing is claimed of {name}: add a claim, or the reason under raw_only" for name in unnamed]
            )
        )
    device = common(result["device"].rpartition(" cores")[0] for result in found.values())
    versions = dict(common(tuple(pair) for result in found.values() for pair in [result["versions"].items()]))
    parts = [HEADER, _machine(device, versions)]
    for part in claims.tables:
        parts.append(f"## {part.title}")
        parts += [part.about] if part.about else []
        rows = [_row(claim, found.get(claim.file, {}), device) for claim in part.claims]
        parts.append(table(["claim", "figure", "conditions", "file"], rows))
    parts += ["## Files", _files(claims, found, versions)]
    return "\n\n".join(parts) + "\n"


def common(values):
    return Counter(values).most_common(1)[0][0]


def _machine(device: str, versions: Mapping[str, str]) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Device: {device.removeprefix('CPU: ')} cores. Versions: {listed}. † another processor, or one whose name is not on record; ‡ a time from a "
        "machine that was busy, or whose load is not on record; see [files](#files)."
    )


def _row(claim: Claim, content: Mapping, device: str) -> list[str]:
    try:
        says, figure, where = (fill(text, dict(content)) for text in (claim.says, claim.figure, claim.where))
    except FigureError as error:
        raise ClaimError(f"claims.yaml, {claim.file}, {claim.says!r}: {error}") from None
    if not claim.file:
        return [says, "not measured", where, ""]
    marks = ("" if content["device"].startswith(device) else "†") + ("‡" if claim.timed and not quiet(content) else "")
    paper = f"; paper: {claim.paper}" if claim.paper else ""
    return [says, figure + paper, where, f"[{claim.file}]({claim.file}.json)" + (f" {marks}" if marks else "")]


def quiet(content: Mapping) -> bool:
    """Whether the result says that the machine did nothing else."""
    return content.get("machine", {}).get("busy") is False


def load(content: Mapping) -> str:
    machine = content.get("machine", {})
    if "busy_cores_elsewhere" in machine:
        return f"{machine['busy_cores_elsewhere']:.2f} of {machine['cores']} cores busy elsewhere"
    average = content.get("load_average_then") or content.get("batches", {}).get("load_average_then")
    return f"load average {average:.1f}, this run's own included" if average else "not on record"


def _files(claims: Claims, found: Mapping[str, dict], versions: Mapping[str, str]) -> str:
    timed = {claim.file for part in claims.tables for claim in part.claims if claim.timed}
    rows = []
    for name, content in found.items():
        other = [f"{k} {v}" for k, v in content["versions"].items() if versions.get(k) != v]
        device = ", ".join([content["device"].removeprefix("CPU: "), *other])
        note = f", raw only: {claims.raw_only[name]}" if name in claims.raw_only else ""
        rows.append(
            [
                f"[{name}]({name}.json){note}",
                f"`{content['command']}`",
                content["date"][:10],
                device,
                load(content) if name in timed else "",
            ]
        )
    return table(["file", "made by", "date", "device", "load"], rows)
