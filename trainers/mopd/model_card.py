"""The teachers' part of a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .mopd_config import MOPDConfig

HEADING = "## Teachers"


def add_teachers(card: Path, teachers: Mapping[str, Mapping[str, Any]], args: MOPDConfig) -> None:
    """Appends a table of the teachers to the card that TRL wrote."""
    text = card.read_text(encoding="utf-8").split(HEADING)[0].rstrip()
    rows = [
        f"| {name} | {teacher['kind']} | {_shown(teacher)} | {(teacher.get('sha256') or teacher.get('fingerprint') or '')[:16]} |"
        for name, teacher in teachers.items()
    ]
    settings = f"`kl_estimator={args.kl_estimator!r}`, `orm_alpha={args.orm_alpha}`"
    card.write_text(
        "\n".join(
            [
                text,
                "",
                HEADING,
                "",
                f"Each prompt was scored by the teacher of its domain ({settings}).",
                "",
                "| domain | kind | teacher | weights |",
                "|---|---|---|---|",
                *rows,
                "",
            ]
        ),
        encoding="utf-8",
    )


def _shown(teacher: Mapping[str, Any]) -> str:
    source = str(teacher["source"])
    if Path(source).is_absolute():
        source = Path(source).name  # a folder of the machine that trained says nothing to others
    revision = teacher.get("revision")
    return f"`{source}`" + (f" at `{revision}`" if revision else "")
