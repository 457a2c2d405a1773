"""Numbers of a matrix or on a plane as colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .look import INTENSITY, PHASE, Picture, house_style, plain

MOST_TICKS = 12


@dataclass(frozen=True)
class HeatMap:
    """
    One map of a picture of several.

    Attributes:
        values: `[rows, columns]`, anything that numpy reads; the first row stands at the top, or where y is least.
        low, high: ends of the scale; None is the least and greatest value.
        columns, rows: names of both, for a matrix.
        extent: x and y of the centres of the first and last pixel (left, right, bottom, top), for a plane.
        stretched: the map fills its place, as where x and y have different units; otherwise pixels are as wide as high.
        cyclic: both ends of the scale are the same, as of a phase.
    """

    title: str
    values: Any
    x_label: str
    y_label: str
    scale_label: str
    low: float | None = None
    high: float | None = None
    columns: Sequence[object] = ()
    rows: Sequence[object] = ()
    extent: tuple[float, float, float, float] | None = None
    cyclic: bool = False
    stretched: bool = False


@house_style()
def heat_maps(maps: Sequence[HeatMap], *, title: str) -> Picture:
    """Maps side by side, each with its scale."""
    picture = Picture(title, 4.6, 5.2 * len(maps))
    picture.suptitle(plain(title), x=0.01, ha="left")
    for axes, told in zip(picture.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        image = axes.imshow(
            np.asarray(told.values),
            cmap=PHASE if told.cyclic else INTENSITY,
            vmin=told.low,
            vmax=told.high,
            interpolation="nearest",
            aspect="auto" if told.stretched else "equal",
            origin="upper" if told.extent is None else "lower",
            extent=None if told.extent is None else _edges(told.extent, *np.shape(told.values)),
        )
        axes.set(title=plain(told.title), xlabel=told.x_label, ylabel=told.y_label)
        axes.grid(visible=False)
        for axis, names in ((axes.xaxis, told.columns), (axes.yaxis, told.rows)):
            if names:
                places = range(0, len(names), -(-len(names) // MOST_TICKS))
                axis.set_ticks(places, [plain(names[place]) for place in places])
        bar = picture.colorbar(image, ax=axes, label=told.scale_label, shrink=0.85)
        if told.cyclic:
            bar.set_ticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], labels=["−π", "−π/2", "0", "π/2", "π"])
    return picture


def _edges(centres: tuple[float, float, float, float], rows: int, columns: int) -> tuple[float, float, float, float]:
    """Half a pixel beyond the centres of the outermost pixels."""
    left, right, bottom, top = centres
    x = (right - left) / (columns - 1) / 2 if columns > 1 else 0.5
    y = (top - bottom) / (rows - 1) / 2 if rows > 1 else 0.5
    return left - x, right + x, bottom - y, top + y
