"""A pixel canvas with anti-aliased lines, text and a PNG writer: pictures without any drawing library."""

import struct
import zlib
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

Color = tuple[int, int, int]

BLACK, GREY, LIGHT, WHITE = (0, 0, 0), (110, 110, 110), (225, 225, 225), (255, 255, 255)

# Five columns of eight pixels a glyph, top pixel in the lowest bit, for the characters from space to tilde.
_FONT = bytes.fromhex(
    "000000000000005F00000007000700147F147F14242A7F2A12231308646236495522500005030000001C2241000041221C0014083E0814"
    "08083E080800503000000808080808006060000020100804023E5149453E00427F400042615149462141454B311814127F102745454539"
    "3C4A49493001710905033649494936064949291E003636000000563600000008142241141414141441221408000201510906324979413E"
    "7E1111117E7F494949363E414141227F4141221C7F494949417F090909013E414151327F0808087F00417F41002040413F017F08142241"
    "7F404040407F0204027F7F0408107F3E4141413E7F090909063E4151215E7F09192946464949493101017F01013F4040403F1F2040201F"
    "7F2018207F63140814630304780403615149454300007F4141020408102041417F00000402010204404040404000010204002054545478"
    "7F484444383844444420384444487F3854545418087E09010218A4A4A47C7F0804047800447D40004080847D00007F10284400417F4000"
    "7C041804787C080404783844444438FC2424241818242424FC7C080404084854545420043F4440203C4040207C1C2040201C3C4030403C"
    "44281028441CA0A0A07C4464544C44000836410000007F000000413608001008081008"
)
GLYPH_WIDTH, GLYPH_HEIGHT = 6, 9  # with one pixel of space


def _glyph(character: str) -> Tensor:
    """Boolean `[8, 5]`; characters outside ASCII show as a question mark."""
    index = ord(character) - 32 if 32 <= ord(character) < 127 else ord("?") - 32
    columns = torch.tensor(list(_FONT[5 * index : 5 * index + 5]))
    return (columns[None, :] >> torch.arange(8)[:, None]) % 2 == 1


def text_width(text: str, scale: int = 2) -> int:
    return GLYPH_WIDTH * scale * len(text)


class Canvas:
    """
    An image to draw on; x runs right and y down, in pixels.

    Attributes:
        pixels: float64 `[height, width, 3]`, 0 to 255.
    """

    def __init__(self, width: int, height: int):
        self.pixels = torch.full((height, width, 3), 255.0, dtype=torch.float64)

    def text(self, x: float, y: float, text: str, color: Color = BLACK, scale: int = 2, upwards: bool = False):
        """Writes from the top left corner (x, y); `upwards` turns the text a quarter to the left."""
        mask = torch.zeros(GLYPH_HEIGHT, GLYPH_WIDTH * max(1, len(text)), dtype=torch.bool)
        for i, character in enumerate(text):
            mask[:8, GLYPH_WIDTH * i : GLYPH_WIDTH * i + 5] = _glyph(character)
        mask = mask.repeat_interleave(scale, dim=0).repeat_interleave(scale, dim=1)
        if upwards:
            mask = mask.rot90(1)
        self._blend(round(x), round(y), mask.double(), color)

    def line(self, x0: float, y0: float, x1: float, y1: float, color: Color = BLACK, width: float = 1.0):
        """A straight line with round ends."""
        left, top = int(min(x0, x1) - width - 1), int(min(y0, y1) - width - 1)
        right, bottom = int(max(x0, x1) + width + 2), int(max(y0, y1) + width + 2)
        y = torch.arange(top, bottom, dtype=torch.float64)[:, None] + 0.5
        x = torch.arange(left, right, dtype=torch.float64)[None, :] + 0.5
        dx, dy = x1 - x0, y1 - y0
        length = dx * dx + dy * dy
        along = ((x - x0) * dx + (y - y0) * dy) / length if length else torch.zeros_like(x + y)
        along = along.clamp(0, 1)
        distance = ((x - x0 - along * dx).square() + (y - y0 - along * dy).square()).sqrt()
        self._blend(left, top, (width / 2 + 0.5 - distance).clamp(0, 1), color)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color):
        """A filled rectangle."""
        rows, columns = (
            slice(max(0, round(top)), max(0, round(bottom))),
            slice(max(0, round(left)), max(0, round(right))),
        )
        self.pixels[rows, columns] = torch.tensor(color, dtype=torch.float64)

    def paste(self, left: int, top: int, image: Tensor):
        """Copies a uint8 image `[height, width, 3]`."""
        self.pixels[top : top + image.shape[0], left : left + image.shape[1]] = image.double()

    def _blend(self, left: int, top: int, coverage: Tensor, color: Color):
        height, width = self.pixels.shape[:2]
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + coverage.shape[1], width), min(top + coverage.shape[0], height)
        if x0 >= x1 or y0 >= y1:
            return
        alpha = coverage[y0 - top : y1 - top, x0 - left : x1 - left, None]
        target = self.pixels[y0:y1, x0:x1]
        target += alpha * (torch.tensor(color, dtype=torch.float64) - target)

    def image(self) -> Tensor:
        """uint8 `[height, width, 3]`."""
        return self.pixels.round().clamp(0, 255).to(torch.uint8)


def png_bytes(image: Tensor) -> bytes:
    """A PNG file of a uint8 image `[height, width, 3]`."""
    height, width = image.shape[:2]
    unfiltered = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), image.cpu().reshape(height, -1)], dim=1)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(unfiltered.flatten().tolist()), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write_png(path: str | PathLike, image: Tensor):
    """Writes a uint8 image `[height, width, 3]` as PNG."""
    Path(path).write_bytes(png_bytes(image))
