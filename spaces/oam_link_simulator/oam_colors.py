"""Fields and levels as colours, and round numbers for axes."""

import io
import math

import torch
from PIL import Image
from torch import Tensor

# Anchors of a magma-like map: dark to bright, even in lightness.
_INTENSITY = torch.tensor([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]]).double()


def ticks(low: float, high: float, target: int = 6) -> list[float]:
    """Round numbers that cover a range, about `target` of them inside it."""
    step = 10 ** math.floor(math.log10((high - low) / target))
    step *= min((1, 2, 5, 10), key=lambda factor: abs((high - low) / (factor * step) - target))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


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


def png_bytes(image: Tensor) -> bytes:
    """A PNG file of a uint8 image `[height, width, 3]`."""
    file = io.BytesIO()
    Image.fromarray(image.cpu().numpy()).save(file, "PNG")
    return file.getvalue()
