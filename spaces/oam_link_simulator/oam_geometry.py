"""Both arrays in space: from the side with true angles, and to scale as seen along the transmit axis."""

import math

import plotly.graph_objects as go
import torch
from oam_charts import BOUND, COLORS, figure, outline

from mimo_hf.oam import LinkGeometry

GAP, LARGEST = 330.0, 72.0  # between the centres, whatever the distance; radius of the larger ring


def from_the_side(link: LinkGeometry) -> go.Figure:
    direction = link.pose.center_m / link.distance_m
    scale = LARGEST / _largest(link)
    axis, normal = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), link.pose.rotation[..., 2]
    chart = figure("From the side, distance not to scale")
    lines = (
        ("axis z", axis * 0, axis * (GAP + 110), BOUND, "solid"),
        (f"D = {float(link.distance_m):g} m", axis * 0, direction * GAP, BOUND, "dash"),
        ("normal of the receiver", direction * GAP, direction * GAP + normal * 80, COLORS[1], "solid"),
    )
    for name, start, end, color, dash in lines:
        (x0, y0), (x1, y1) = _oblique(start), _oblique(end)
        marks = {"symbol": "arrow", "size": [0, 11], "angleref": "previous", "color": color}
        line = {"color": color, "dash": dash, "width": 2}
        chart.add_scatter(
            x=[x0, x1], y=[y0, y1], name=name, mode="lines+markers", line=line, marker=marks, hoverinfo="name"
        )
    rings = (link.tx_positions() * scale, direction * GAP + link.rx_offsets() * scale)
    for name, color, points in zip(_names(link), COLORS[:2], rings, strict=True):
        outline(chart, [_oblique(point) for point in points], name, color)
    return chart.update_xaxes(visible=False).update_yaxes(visible=False, scaleanchor="x")


def along_the_axis(link: LinkGeometry) -> go.Figure:
    x, y = link.pose.center_m[:2].tolist()
    extent = math.hypot(x, y) + 1.25 * _largest(link)
    chart = figure("Along the axis, to scale", "x (m)", "y (m)")
    for name, color, points, size in zip(
        _names(link), COLORS[:2], (link.tx_positions(), link.rx_positions()), (11, 6), strict=True
    ):
        outline(chart, [point[:2].tolist() for point in points], name, color, size)
    ends = {"range": [-extent, extent], "constrain": "domain"}
    return chart.update_xaxes(**ends).update_yaxes(**ends, scaleanchor="x")


def _oblique(point: torch.Tensor) -> tuple[float, float]:
    x, y, z = point.tolist()
    return z + 0.42 * y, x - 0.22 * y


def _largest(link: LinkGeometry) -> float:
    return float(max(ring.radius_m for ring in link.rings()))


def _names(link: LinkGeometry) -> list[str]:
    ends = zip(("transmit", "receive"), link.rings(), strict=True)
    return [f"{end}: {ring.num_elements} elements, R = {float(ring.radius_m):.4g} m" for end, ring in ends]
