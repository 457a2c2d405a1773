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

from ..lazy import lazy_names

_NAMES = {
    "charts": "bar_chart line_chart point_chart",
    "look": "Picture save svg_text",
    "maps": "HeatMap heat_maps",
    "target": "FORMATS check_target",
    "timelines": "Bar timeline",
}

if TYPE_CHECKING:
    from .charts import bar_chart, line_chart, point_chart
    from .look import Picture, save, svg_text
    from .maps import HeatMap, heat_maps
    from .target import FORMATS, check_target
    from .timelines import Bar, timeline


_load, __dir__ = lazy_names(__name__, _NAMES)


def __getattr__(name: str):
    if name in __all__ and name not in _NAMES["target"].split():
        import_module(f"{__name__}.look")  # first, since it says how to install a matplotlib that is missing
    return _load(name)


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
