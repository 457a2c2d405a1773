"""What ran where and when (a Gantt chart), below the curves of what it adds up to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch

from .look import PALETTE, Picture, house_style, plain

SHORTEST_S = 1e-9  # below it, a timeline is drawn as one second


@dataclass(frozen=True)
class Bar:
    """
    One bar of a timeline.

    Attributes:
        row: which of the timeline's rows it lies in.
        kind: what gives it its colour.
        note: what it says where the mouse rests on it, in SVG.
    """

    row: int
    start_s: float
    end_s: float
    kind: str
    note: str = ""


@house_style()
def timeline(
    rows: Sequence[str],
    bars: Sequence[Bar],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
) -> Picture:
    """
    A row of bars for each name, under step curves.

    Args:
        curves: by name, points (seconds, level); a level holds until the next point.

    Raises:
        ValueError: there is no bar.
    """
    if not bars:
        raise ValueError("`bars` must have at least one bar; got none.")
    top, below, row = 1.7, 0.9, 0.15
    picture = Picture(title, top + below + row * len(rows) + 0.3, 11.0)
    over, under = picture.subplots(2, 1, sharex=True, height_ratios=[top, max(0.3, row * len(rows))])
    end_s = max(bar.end_s for bar in bars)
    steps = []
    over.set(title=plain(title), ylabel="count", xlim=(0, end_s if end_s > SHORTEST_S else 1.0))
    for i, points in enumerate(curves.values()):
        times, levels = zip(*points, strict=True) if points else ((), ())
        steps += over.step(times, levels, where="post", color=PALETTE[-1 - i], linewidth=1.2)
    over.set_ylim(bottom=0)
    over.legend(
        steps, [plain(name) for name in curves], loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderpad=0
    )

    kinds = sorted({bar.kind for bar in bars})
    colour = {kind: PALETTE[i % len(PALETTE)] for i, kind in enumerate(kinds)}
    boxes = [
        [
            (bar.start_s, bar.row - 0.4),
            (bar.end_s, bar.row - 0.4),
            (bar.end_s, bar.row + 0.4),
            (bar.start_s, bar.row + 0.4),
        ]
        for bar in bars
    ]
    colours = [colour[bar.kind] for bar in bars]
    # The edge lets an action of no length be seen. Unclipped, so that a box is one element of the SVG, with its note.
    under.add_collection(
        PolyCollection(boxes, facecolors=colours, edgecolors=colours, linewidths=0.4, clip_on=False, gid="bars")
    )
    picture.notes["bars"] = [bar.note for bar in bars]
    under.set(xlabel="time (s)", ylim=(len(rows) - 0.4, -0.6))
    under.set_yticks(range(len(rows)), [plain(name) for name in rows], fontsize=7)
    under.grid(visible=False, axis="y")
    picture.legend(
        [Patch(color=colour[kind]) for kind in kinds],
        [plain(kind) for kind in kinds],
        loc="outside lower center",
        ncols=8,
    )
    return picture
