"""
Pictures of results as PNG, SVG or PDF, by matplotlib (`pip install "mimo-hf[plot]"`). Nobody else draws files.

    from mimo_hf import drawing

    drawing.check_target("tilt.svg", "path")  # before anything long is computed
    picture = drawing.line_chart([0, 5], {"plain": [60.0, 2.1]}, x_label="tilt (°)", y_label="bit/s/Hz", title="Tilt")
    drawing.save(picture, "tilt.svg")

A chart is a `matplotlib.figure.Figure`, which no window shows: what `drawing.save` does not offer, its axes do.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOME = {
    "Bar": "timelines",
    "FORMATS": "target",
    "HeatMap": "maps",
    "Picture": "look",
    "bar_chart": "charts",
    "check_target": "target",
    "heat_maps": "maps",
    "line_chart": "charts",
    "point_chart": "charts",
    "save": "look",
    "svg_text": "look",
    "timeline": "timelines",
}

if TYPE_CHECKING:
    from .charts import bar_chart, line_chart, point_chart
    from .look import Picture, save, svg_text
    from .maps import HeatMap, heat_maps
    from .target import FORMATS, check_target
    from .timelines import Bar, timeline


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mimo_hf.drawing' has no attribute {name!r}")
    if _HOME[name] != "target":
        import_module(f"{__name__}.look")  # first, since it says how to install a matplotlib that is missing
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


__all__ = [
    "FORMATS",
    "Bar",
    "HeatMap",
    "Picture",
    "bar_chart",
    "check_target",
    "heat_maps",
    "line_chart",
    "point_chart",
    "save",
    "svg_text",
    "timeline",
]
