"""Pictures that are no charts: both arrays in space, and fields of modes on a plane."""

import base64
import math

import torch
from oam_charts import COLORS, GRID, MUTED, rgb, svg, text
from oam_colors import color_map, intensity_image, phase_image, png_bytes
from torch import Tensor

from mimo_hf.oam import LinkGeometry

TX, RX = COLORS[0], COLORS[1]


def geometry_picture(link: LinkGeometry) -> str:
    """Both arrays from the side with true angles, and to scale as seen along the transmit axis."""
    width, height = 860, 380
    center = link.pose.center_m
    direction = center / link.distance_m
    tx_ring, rx_ring = link.rings()
    largest = float(max(tx_ring.radius_m, rx_ring.radius_m))
    gap = 330.0  # pixels between the centres, whatever the distance

    def oblique(point: Tensor) -> tuple[float, float]:
        x, y, z = point.tolist()
        return 110 + z + 0.42 * y, 205 - x + 0.22 * y

    scale = 72 / largest
    tx = link.tx_positions() * scale
    rx = direction * gap + link.rx_offsets() * scale
    axis_z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    normal = link.pose.rotation[..., 2]
    body = text(20, 26, "From the side: angles true, distance not to scale", size=15, more="font-weight='600'")
    body += _arrow(oblique(axis_z * 0), oblique(axis_z * (gap + 110)), GRID, "")
    body += _line(oblique(axis_z * 0), oblique(direction * gap), MUTED, "6 4")
    body += _ring(tx, oblique, TX) + _ring(rx, oblique, RX)
    body += _arrow(oblique(axis_z * 0), oblique(axis_z * 62), TX, "")
    body += _arrow(oblique(direction * gap), oblique(direction * gap + normal * 80), RX, "normal", RX)
    middle = oblique(direction * gap / 2)
    body += text(middle[0], middle[1] - 8, f"D = {float(link.distance_m):g} m", "middle")
    body += text(oblique(axis_z * (gap + 110))[0] + 6, 209, "z", color=MUTED)
    body += text(30, 316, f"transmit: {tx_ring.num_elements} elements, R = {float(tx_ring.radius_m):.4g} m", color=TX)
    body += text(30, 338, f"receive: {rx_ring.num_elements} elements, R = {float(rx_ring.radius_m):.4g} m", color=RX)
    body += text(30, 360, "larger dot: element 0", size=12, color=MUTED)

    offset = math.hypot(float(center[0]), float(center[1]))
    extent = offset + 1.25 * largest
    x0, y0, half = 700.0, 190.0, 125.0
    body += text(575, 26, "Along the axis, to scale", size=15, more="font-weight='600'")
    body += (
        f"<rect x='{x0 - half}' y='{y0 - half}' width='{2 * half}' height='{2 * half}' fill='none' stroke='{GRID}'/>"
    )
    body += f"<path d='M{x0 - half} {y0} h{2 * half} M{x0} {y0 - half} v{2 * half}' stroke='{GRID}'/>"

    def front(point: Tensor) -> tuple[float, float]:
        return x0 + float(point[0]) / extent * half, y0 - float(point[1]) / extent * half

    body += _ring(link.tx_positions(), front, TX, 5.5) + _ring(link.rx_positions(), front, RX, 3)
    body += text(x0 + half - 4, y0 - 6, "x", "end", 12, MUTED) + text(x0 + 6, y0 - half + 14, "y", "start", 12, MUTED)
    body += text(x0, y0 + half + 20, f"{2 * extent:.3g} m wide", "middle", 12, MUTED)
    return svg(width, height, body, "Positions of both arrays: from the side, and along the transmit axis")


def _line(start: tuple[float, float], end: tuple[float, float], color: str, dash: str = "") -> str:
    ends = f"x1='{start[0]:.1f}' y1='{start[1]:.1f}' x2='{end[0]:.1f}' y2='{end[1]:.1f}'"
    return f"<line {ends} stroke='{color}' stroke-width='1.8' stroke-dasharray='{dash}'/>"


def _arrow(start, end, color: str, label: str, ink: str = MUTED) -> str:
    turn = math.atan2(end[1] - start[1], end[0] - start[0])
    tips = [(end[0] - 9 * math.cos(turn + s), end[1] - 9 * math.sin(turn + s)) for s in (0.42, -0.42)]
    head = f"<path d='M{end[0]:.1f} {end[1]:.1f} L{tips[0][0]:.1f} {tips[0][1]:.1f} L{tips[1][0]:.1f} {tips[1][1]:.1f} z' fill='{color}'/>"
    return _line(start, end, color) + head + (text(end[0] - 4, end[1] - 10, label, "end", 12, ink) if label else "")


def _ring(points: Tensor, place, color: str, size: float = 4.0) -> str:
    spots = [place(point) for point in points]
    edge = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dots = "".join(
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{size + 2 if n == 0 else size}' fill='{color}'><title>element {n}</title></circle>"
        for n, (x, y) in enumerate(spots)
    )
    return f"<polygon points='{edge}' fill='none' stroke='{color}' stroke-opacity='.5'/>" + dots


def _image(image: Tensor, x: float, y: float, size: float) -> str:
    data = base64.b64encode(png_bytes(image)).decode()
    return f"<image x='{x}' y='{y}' width='{size}' height='{size}' href='data:image/png;base64,{data}'/>"


def field_picture(field: Tensor, extent_m: float, receive_radius_m: float, title: str) -> str:
    """Phase and intensity of one mode, with axes in metres, the receive ring dashed, and both colour scales."""
    size, top = 330, 62
    body = text(60, 28, title, size=15, more="font-weight='600'")
    for left, image, caption in (
        (60, phase_image(field), "Phase"),
        (492, intensity_image(field), "Intensity, dB below the peak"),
    ):
        body += text(left, 52, caption) + _image(image, left, top, size)
        for share in (0.0, 0.5, 1.0):
            value = f"{(share - 0.5) * extent_m:.3g}"
            body += text(left + share * size, top + size + 16, value, "middle", 12, MUTED)
            body += text(left - 6, top + (1 - share) * size + 4, value, "end", 12, MUTED)
        body += text(left + size / 2, top + size + 36, "x (m); dashed: the aligned receive ring", "middle", 12)
        radius = receive_radius_m / extent_m * size
        if radius < size / 2:
            body += (
                f"<circle cx='{left + size / 2}' cy='{top + size / 2}' r='{radius:.1f}' fill='none' stroke='#fff' "
                "stroke-width='2' stroke-dasharray='6 5'/>"
            )
    body += _phase_wheel(430, 112) + _intensity_scale(832, top, size)
    return svg(880, 450, body, f"{title}: phase and intensity on a plane across the axis")


def _phase_wheel(x: float, y: float) -> str:
    body = ""
    for i in range(36):
        turn = 2 * math.pi * i / 36
        color = [round(127.5 * (1 + math.cos(turn - shift))) for shift in (0, 2 * math.pi / 3, -2 * math.pi / 3)]
        a, b = (x + 15 * math.cos(turn), y - 15 * math.sin(turn)), (x + 24 * math.cos(turn), y - 24 * math.sin(turn))
        body += f"<line x1='{a[0]:.1f}' y1='{a[1]:.1f}' x2='{b[0]:.1f}' y2='{b[1]:.1f}' stroke='{rgb(color)}' stroke-width='5'/>"
    places = ((0, -30, "π/2"), (0, 40, "−π/2"), (31, 4, "0"), (-32, 4, "π"))
    return body + "".join(text(x + a, y + b, name, "middle", 11, MUTED) for a, b, name in places)


def _intensity_scale(x: float, y: float, height: float, low: float = -40.0, high: float = 0.0, steps: int = 40) -> str:
    colors = color_map(torch.linspace(1, 0, steps)).tolist()
    body = "".join(
        f"<rect x='{x}' y='{y + i * height / steps:.1f}' width='14' height='{height / steps + 0.5:.1f}' fill='{rgb(c)}'/>"
        for i, c in enumerate(colors)
    )
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        body += text(x + 19, y + share * height + 4, f"{high + share * (low - high):g}", size=11, color=MUTED)
    return body


def decibel_scale(x: float, y: float, height: float, low: float, high: float) -> str:
    return _intensity_scale(x, y, height, low, high) + text(x + 7, y - 10, "dB", "middle", 11, MUTED)


def mode_strip(fields: Tensor, modes: list[int], chosen: int) -> str:
    """Phase fronts of all modes in small; at most 16, those of least order."""
    order = sorted(range(len(modes)), key=lambda k: (abs(modes[k]), modes[k]))[:16]
    order.sort(key=lambda k: modes[k])
    size, per_row = 98, 8
    rows = math.ceil(len(order) / per_row)
    body = ""
    for i, k in enumerate(order):
        x, y = 10 + (i % per_row) * (size + 8), 24 + (i // per_row) * (size + 30)
        name = f"l = {modes[k]:+d}" if modes[k] else "l = 0"
        weight = "font-weight='700'" if modes[k] == chosen else ""
        body += text(x + size / 2, y - 6, name, "middle", 12, more=weight) + _image(phase_image(fields[k]), x, y, size)
    return svg(860, 24 + rows * (size + 30), body, "Phase fronts of all modes")
