"""The look that all pictures share, and how they become files."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from os import PathLike
from typing import Any

try:
    import matplotlib
except ModuleNotFoundError as error:
    raise ImportError('drawing needs matplotlib: pip install "mimo-hf[plot]"') from error
import matplotlib.style
from matplotlib.figure import Figure

from .target import check_target

# Okabe and Ito's colours, told apart with any colour vision; a marker stands for each as well.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c7800", "#787878")
MARKERS = "osD^vP*Xhp"
INTENSITY, PHASE = "magma", "twilight"
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#787878",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "figure.dpi": 120,
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 120,
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "mimo_hf",
}
WIDTH_INCHES = 8.0
# A file depends on the numbers alone, so that a picture drawn again is no change.
METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def house_style():
    """The settings of matplotlib while one of our pictures is made or written, whatever the user's own are."""
    return matplotlib.style.context(["default", STYLE])


class Picture(Figure):
    """
    A figure with a title.

    Attributes:
        notes: by the gid of an artist, what each of its parts says where the mouse rests on it, in SVG.
    """

    def __init__(self, title: str, height_inches: float, width_inches: float = WIDTH_INCHES):
        super().__init__(figsize=(width_inches, height_inches))
        self.title = title
        self.notes: dict[str, Sequence[str]] = {}


def plain(text: object) -> str:
    """The text as it stands: a dollar sign begins no formula."""
    return str(text).replace("$", r"\$")


def finite(values: Sequence[float]) -> list[float]:
    """The values with NaN, which leaves a gap, for those that are not finite."""
    return [float(value) if math.isfinite(value) else math.nan for value in values]


def legend(picture: Picture, named: Mapping[str, Any]) -> None:
    """Names beside the axes, in the order given, where they hide nothing."""
    picture.legend(list(named.values()), [plain(name) for name in named], loc="outside right upper")


def save(picture: Figure, path: str | PathLike[str]) -> None:
    """
    Writes a picture in the form that the file's suffix names.

    Raises:
        ValueError: the suffix names none of `FORMATS`.
    """
    path = check_target(path)
    if path.suffix.lower() == ".svg":
        path.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + svg_text(picture), encoding="utf-8")
    else:
        path.write_bytes(_rendered(picture, path.suffix.lower()))


def svg_text(picture: Figure) -> str:
    """The element `<svg>` of a picture, as it may stand in a page."""
    text = _rendered(picture, ".svg").decode()
    text = text[text.index("<svg") :]
    for gid, notes in getattr(picture, "notes", {}).items():
        start = text.index(f'<g id="{gid}">')
        end = text.index("</g>", start)
        text = text[:start] + _with_notes(text[start:end], notes) + text[end:]
    return text


def _with_notes(group: str, notes: Sequence[str]) -> str:
    told = iter(notes)
    return re.sub(r"(<path [^>]*)/>", lambda part: f"{part[1]}><title>{escape(next(told))}</title></path>", group)


def _rendered(picture: Figure, suffix: str) -> bytes:
    title = getattr(picture, "title", None)
    more = {"Title": title} if title else {}
    buffer = io.BytesIO()
    with house_style():
        picture.savefig(buffer, format=suffix[1:], metadata={**METADATA[suffix], **more})
    return buffer.getvalue()
