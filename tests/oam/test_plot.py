"""Pictures: valid PNG files whose pixels are what was drawn."""

import math
import struct
import zlib

import pytest
import torch

from mimo_hf.oam.canvas import Canvas, png_bytes, text_width, write_png
from mimo_hf.oam.plot import (
    PALETTE,
    bar_plot,
    color_map,
    images_side_by_side,
    intensity_image,
    line_plot,
    phase_image,
    ticks,
)


def decode_png(data):
    """Chunks read one by one, checksums verified; unfiltered rows of RGB only."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    position, chunks = 8, {}
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert struct.unpack(">I", data[position + 8 + length : position + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        position += 12 + length
    width, height, depth, color_type = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, color_type) == (8, 2)
    rows = torch.tensor(list(zlib.decompress(chunks[b"IDAT"])), dtype=torch.uint8).view(height, 1 + 3 * width)
    assert int(rows[:, 0].max()) == 0
    return rows[:, 1:].reshape(height, width, 3)


def test_png_holds_the_pixels(tmp_path):
    image = torch.randint(256, (7, 11, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(decode_png(png_bytes(image)), image)
    write_png(tmp_path / "a.png", image)
    assert (tmp_path / "a.png").read_bytes() == png_bytes(image)


def test_line_covers_its_pixels_and_no_others():
    canvas = Canvas(20, 10)
    canvas.line(2, 5.5, 18, 5.5, (0, 0, 0), width=1.0)
    image = canvas.image()
    assert int(image[5, 3:17].max()) == 0
    assert int(image[:4].min()) == 255
    assert int(image[7:].min()) == 255


def test_text_is_legible():
    canvas = Canvas(12, 8)
    canvas.text(0, 0, "Th", scale=1)
    rows = ["".join("#" if pixel == 0 else "." for pixel in row) for row in canvas.image()[:7, :, 0].tolist()]
    assert rows == [
        "#####.#.....",
        "..#...#.....",
        "..#...#.##..",
        "..#...##..#.",
        "..#...#...#.",
        "..#...#...#.",
        "..#...#...#.",
    ]
    assert text_width("Th", scale=1) == 12


def test_drawing_outside_the_canvas_is_cut_off():
    canvas = Canvas(10, 10)
    canvas.line(-50, -50, 60, 60)
    canvas.text(-3, 8, "abc")
    canvas.text(50, 50, "abc")
    assert canvas.image().shape == (10, 10, 3)


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.13, 0.27) == [-0.1, -0.05, 0, 0.05, 0.1, 0.15, 0.2, 0.25]
    assert ticks(3e9, 8e9) == [3e9, 4e9, 5e9, 6e9, 7e9, 8e9]


def test_line_plot_draws_every_series_and_leaves_gaps():
    image = line_plot([0, 1, 2], {"a": [1, 2, 3], "b": [3, math.nan, 1]}, title="t", x_label="x", y_label="y")
    for color in PALETTE[:2]:
        assert (image == torch.tensor(color)).all(dim=-1).sum() > 100
    with pytest.raises(ValueError, match="finite"):
        line_plot([0, 1], {"a": [math.nan, math.inf]}, title="t", x_label="x", y_label="y")


def test_constant_curves_and_single_points_can_be_drawn():
    line_plot([5], {"a": [2.0]}, title="t", x_label="x", y_label="y")
    line_plot([0, 1], {"a": [0.0, 0.0]}, title="t", x_label="x", y_label="y")
    assert bar_plot({"a": 1.0, "b": 0.0}, title="t", unit="bit/s/Hz").shape[1] == 960


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


def test_images_side_by_side():
    picture = images_side_by_side({"a": torch.zeros(4, 4, 3, dtype=torch.uint8)}, title="t", size=100)
    assert picture.shape == (200, 140, 3)
    assert int(picture[85:175, 25:115].max()) == 0
