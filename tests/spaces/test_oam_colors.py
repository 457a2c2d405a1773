"""The Space's colours of fields, its ticks, and its PNG files."""

import io
import math

import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")

from mimo_hf.hub import spaces

spaces.load("oam")
from oam_colors import (  # noqa: E402  found by the Space's own folder, which loading it adds to the path
    color_map,
    intensity_image,
    phase_image,
    png_bytes,
    ticks,
)


def test_png_holds_the_pixels():
    image = torch.randint(256, (7, 11, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    read = Image.open(io.BytesIO(png_bytes(image)))
    assert read.size == (11, 7)
    assert list(read.getdata()) == [tuple(pixel) for row in image.tolist() for pixel in row]


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.13, 0.27) == [-0.1, -0.05, 0, 0.05, 0.1, 0.15, 0.2, 0.25]
    assert ticks(3e9, 8e9) == [3e9, 4e9, 5e9, 6e9, 7e9, 8e9]


def test_phase_colours_turn_with_the_phase_and_y_points_up():
    field = torch.tensor([[1.0, -1.0], [1j, -1j]], dtype=torch.complex128)
    image = phase_image(field)
    assert image[1, 0].tolist() == [255, 64, 64]
    assert image[1, 1].tolist() == [0, 191, 191]
    assert image[0, 0].float().argmax() == 1  # +90 degrees is nearest to green


def test_intensity_is_bright_at_the_peak_and_dark_below_the_range():
    image = intensity_image(torch.tensor([[1.0, 1e-3]], dtype=torch.complex128))
    assert image[0, 0].tolist() == [252, 253, 191]
    assert image[0, 1].tolist() == [0, 0, 4]
    assert color_map(torch.tensor([math.nan, 2.0, -1.0])).tolist() == [[0, 0, 4], [252, 253, 191], [0, 0, 4]]
