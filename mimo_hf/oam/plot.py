"""Charts of results and maps of fields as images, drawn on a `Canvas`."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .canvas import BLACK, GLYPH_HEIGHT, GREY, LIGHT, Canvas, Color, text_width

# Okabe and Ito's palette, told apart with any colour vision; a marker stands for each as well.
PALETTE: tuple[Color, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (0, 0, 0),
    (140, 120, 0),
    (120, 120, 120),
)
MARKERS = "o+x*#s%&="
# Anchors of a magma-like map: dark to bright, even in lightness.
_INTENSITY = torch.tensor([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]]).double()

WIDTH, HEIGHT = 960, 600
LEFT, TOP, BOTTOM = 104, 60, 80


def ticks(low: float, high: float, target: int = 6) -> list[float]:
    """Round numbers that cover a range, about `target` of them inside it."""
    step = 10 ** math.floor(math.log10((high - low) / target))
    step *= min((1, 2, 5, 10), key=lambda factor: abs((high - low) / (factor * step) - target))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _span(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        return low - 0.5, high + 0.5
    return low, high


def line_plot(
    x: Sequence[float], series: Mapping[str, Sequence[float]], *, title: str, x_label: str, y_label: str
) -> Tensor:
    """
    Curves over a common axis, with a legend. Values that are not finite leave a gap.

    Returns:
        uint8 `[600, 960, 3]`.
    """
    canvas = Canvas(WIDTH, HEIGHT)
    right = WIDTH - 40 - max(text_width(name) for name in series) - 20
    bottom = HEIGHT - BOTTOM
    finite = [value for values in series.values() for value in values if math.isfinite(value)]
    if not finite:
        raise ValueError("there is nothing to plot: no value is finite.")
    (x_low, x_high), (y_low, y_high) = _span([float(value) for value in x]), _span(finite)
    if 0 < y_low < 0.5 * y_high:
        y_low = 0.0
    y_high += 0.04 * (y_high - y_low)

    def place(a: float, b: float) -> tuple[float, float]:
        return (
            LEFT + (a - x_low) / (x_high - x_low) * (right - LEFT),
            bottom - (b - y_low) / (y_high - y_low) * (bottom - TOP),
        )

    canvas.text(LEFT, 20, title)
    for value in ticks(x_low, x_high):
        column, _ = place(value, y_low)
        canvas.line(column, TOP, column, bottom, LIGHT)
        label = f"{value:g}"
        canvas.text(column - text_width(label) / 2, bottom + 10, label, GREY)
    for value in ticks(y_low, y_high):
        _, row = place(x_low, value)
        canvas.line(LEFT, row, right, row, LIGHT)
        label = f"{value:g}"
        canvas.text(LEFT - 8 - text_width(label), row - GLYPH_HEIGHT, label, GREY)
    canvas.line(LEFT, bottom, right, bottom, GREY)
    canvas.line(LEFT, TOP, LEFT, bottom, GREY)
    canvas.text((LEFT + right - text_width(x_label)) / 2, HEIGHT - 34, x_label)
    canvas.text(8, (TOP + bottom - text_width(y_label)) / 2, y_label, upwards=True)

    for i, (name, values) in enumerate(series.items()):
        color, marker = PALETTE[i % len(PALETTE)], MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]
        points = [place(float(a), float(b)) if math.isfinite(b) else None for a, b in zip(x, values, strict=True)]
        for start, end in pairwise(points):
            if start and end:
                canvas.line(*start, *end, color, width=2.0)
        # About a dozen marks a curve, out of step with those of the other curves.
        stride = max(1, len(points) // 12)
        for point in points[i % stride :: stride]:
            if point:
                canvas.text(point[0] - 5, point[1] - 8, marker, color)
        row = TOP + 24 * i
        canvas.line(right + 12, row + 8, right + 34, row + 8, color, width=2.0)
        canvas.text(right + 18, row, marker, color)
        canvas.text(right + 42, row, name, BLACK)
    return canvas.image()


def bar_plot(values: Mapping[str, float], *, title: str, unit: str) -> Tensor:
    """
    Horizontal bars from zero, each with its name and number.

    Returns:
        uint8 `[height, 960, 3]`.
    """
    height = TOP + 36 * len(values) + 20
    canvas = Canvas(WIDTH, height)
    canvas.text(20, 20, title)
    left = 40 + max(text_width(name) for name in values)
    room = WIDTH - left - 20 - text_width(f"0000.0 {unit}")
    largest = max(*values.values(), 1e-300)
    for i, (name, value) in enumerate(values.items()):
        row = TOP + 36 * i
        canvas.text(20, row + 5, name)
        end = left + max(0.0, value) / largest * room
        canvas.box(left, row, end, row + 26, PALETTE[i % len(PALETTE)])
        canvas.text(end + 8, row + 5, f"{value:.1f} {unit}")
    return canvas.image()


def phase_image(field: Tensor) -> Tensor:
    """Phase as hue, 0 red, +2π/3 green, -2π/3 blue. `[rows, columns]` complex to uint8, y upwards."""
    angle = field.angle().flip(0)[..., None]
    shifts = torch.tensor([0.0, 2.0, -2.0], dtype=angle.dtype, device=angle.device) * math.pi / 3
    return (127.5 * (1 + (angle - shifts).cos())).round().to(torch.uint8).cpu()


def intensity_image(field: Tensor, range_db: float = 40.0) -> Tensor:
    """Power in dB below the peak, bright at the peak and dark at `-range_db`. Complex to uint8, y upwards."""
    power = field.abs().square()
    level = 10 * torch.log10((power / power.max()).clamp(min=1e-300))
    return color_map((level / range_db + 1).flip(0))


def color_map(share: Tensor) -> Tensor:
    """Colours of values from 0 (dark) to 1 (bright), `[..., ]` to uint8 `[..., 3]`."""
    position = share.cpu().double().nan_to_num(nan=0.0).clamp(0, 1) * (len(_INTENSITY) - 1)
    low = position.floor().clamp(max=len(_INTENSITY) - 2).long()
    weight = (position - low)[..., None]
    return ((1 - weight) * _INTENSITY[low] + weight * _INTENSITY[low + 1]).round().to(torch.uint8)


def images_side_by_side(images: dict[str, Tensor], *, title: str, size: int = 420) -> Tensor:
    """Square images enlarged to about `size` pixels with a caption above each; uint8."""
    canvas = Canvas(20 + (size + 20) * len(images), size + 100)
    canvas.text(20, 16, title)
    for i, (caption, image) in enumerate(images.items()):
        factor = max(1, size // max(image.shape[:2]))
        enlarged = image.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)[:size, :size]
        canvas.text(20 + (size + 20) * i, 52, caption)
        canvas.paste(20 + (size + 20) * i, 80, enlarged)
    return canvas.image()


def mode_matrix_image(g: Tensor, unit: float, low_db: float = -40.0, high_db: float = 20.0) -> Tensor:
    """Power of a modal channel `[N_r, N_t]` over `unit`² in dB as colours, receive modes downwards; uint8."""
    level = 20 * torch.log10((g.abs() / unit).clamp(min=1e-300))
    return color_map((level - low_db) / (high_db - low_db))
