"""Pictures of every color type and bit depth of PNG and JPEG, with the mean color that each must show."""

import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from struct import pack
from typing import NamedTuple

from PIL import Image, ImageStat
from samples import chunk, header, png

WIDTH, HEIGHT = 64, 32
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
DEPTHS = {GRAY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GRAY_ALPHA: (8, 16), RGBA: (8, 16)}
SHADES = {
    GRAY: (0.25,),
    RGB: (0.75, 0.5, 0.25),
    PALETTE: (0.25,),
    GRAY_ALPHA: (0.25, 0.5),
    RGBA: (0.75, 0.5, 0.25, 0.5),
}
"""The channels of the picture's color, from 0 to 1."""


class ColorPicture(NamedTuple):
    name: str
    content: bytes
    content_type: str
    mean: tuple[float, float, float, float]
    """The mean of red, green, blue and alpha, from 0 to 255."""


def _pictures() -> Iterator[ColorPicture]:
    for color, depths in DEPTHS.items():
        for depth in depths:
            yield _png(color, depth)
    for depth in DEPTHS[GRAY]:
        yield _transparent_png(depth)
    for mode, quality in product(("L", "RGB", "CMYK"), (60, 95)):
        yield _jpeg(mode, quality)


def _png(color: int, depth: int) -> ColorPicture:
    """Return a PNG of one color. Its palette, if it has one, runs from black to red."""
    most = 2**depth - 1
    samples = tuple(round(shade * most) for shade in SHADES[color])
    palette = (
        b"".join(bytes([index * 255 // most, 0, 0]) for index in range(most + 1)) if color == PALETTE else b""
    )
    content = _encoded(color, depth, samples, *([chunk(b"PLTE", palette)] if palette else []))
    shown = [255 * sample / most for sample in samples]
    mean = {
        GRAY: lambda: (shown[0],) * 3 + (255,),
        RGB: lambda: (*shown, 255),
        PALETTE: lambda: (samples[0] * 255 // most, 0, 0, 255),
        GRAY_ALPHA: lambda: (shown[0],) * 3 + (shown[1],),
        RGBA: lambda: tuple(shown),
    }[color]()
    return ColorPicture(f"png-{color}-{depth}", content, "image/png", mean)


def _transparent_png(depth: int) -> ColorPicture:
    """Return a gray PNG whose only gray is transparent."""
    sample = round(0.25 * (2**depth - 1))
    content = _encoded(GRAY, depth, (sample,), chunk(b"tRNS", pack(">H", sample)))
    gray = 255 * sample / (2**depth - 1)
    return ColorPicture(f"png-transparent-{depth}", content, "image/png", (gray, gray, gray, 0))


def _encoded(color: int, depth: int, samples: tuple[int, ...], *chunks: bytes) -> bytes:
    bits = "".join(f"{sample:0{depth}b}" for sample in samples) * WIDTH
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8)
    data = chunk(b"IDAT", zlib.compress(row * HEIGHT))
    return png(header(WIDTH, HEIGHT, depth, color), *chunks, data, chunk(b"IEND", b""))


def _jpeg(mode: str, quality: int) -> ColorPicture:
    image, content = Image.new("RGB", (WIDTH, HEIGHT), (200, 120, 40)).convert(mode), BytesIO()
    image.save(content, "JPEG", quality=quality)
    red, green, blue = ImageStat.Stat(image.convert("RGB")).mean
    return ColorPicture(f"jpeg-{mode}-{quality}", content.getvalue(), "image/jpeg", (red, green, blue, 255))


COLOR_PICTURES = list(_pictures())
