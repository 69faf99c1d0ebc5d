"""Decoding of an untrusted file: the program of a decoder process.

It imports next to nothing else of the service, so that a process starts quickly.
"""

import resource
import sys
from io import BytesIO
from pathlib import Path

import msgspec
from PIL import (
    ExifTags,
    Image,
    ImageFile,
    ImageOps,
    WebPImagePlugin,  # noqa: F401  # otherwise Pillow imports all its plugins to find this one
)

from service.documents.inspection_types import STARTED, DecodingLimits, InspectionResult, Outcome, Rejection
from service.jobs.process import run_at_low_priority

THUMBNAIL_PIXELS = 256
"""Maximum length of the longer side."""
QUALITY = 80
DECODERS = {"image/png": "PNG", "image/jpeg": "JPEG"}


GRAY_SCALES = {"L;2": 85, "L;4": 17, "I;16B": 1 / 257}
"""Factors that scale gray samples of a PNG to 8 bits, by Pillow's raw mode.

Pillow itself scales neither samples of 16 bits nor the transparent value.
"""
SIDEWAYS = {5, 6, 7, 8}
"""The EXIF orientations that exchange width and height."""


class DocumentRejected(Exception):
    """The file is rejected. `problem` is shown to clients; `cause` is the decoder's message."""

    def __init__(self, problem: str, cause: str = "") -> None:
        super().__init__(problem, cause)
        self.rejection = Rejection(problem, cause)


def main() -> None:
    """Decode the file named on the command line, and write the outcome to stdout.

    If it takes too much CPU time or the decoder crashes, the process dies without an outcome.
    """
    path, content_type, encoded_limits = sys.argv[1:]
    limits = msgspec.json.decode(encoded_limits, type=DecodingLimits)
    sys.stdout.buffer.write(STARTED)
    sys.stdout.buffer.flush()
    _limit_resources(limits)
    sys.stdout.buffer.write(msgspec.msgpack.encode(inspect_file(path, content_type, limits.pixels)))


def inspect_file(path: str, content_type: str, pixels_max: int) -> Outcome:
    """Decode a file and make its thumbnail."""
    try:
        return _pdf(path) if content_type == "application/pdf" else _image(path, content_type, pixels_max)
    except DocumentRejected as rejected:
        return rejected.rejection
    except MemoryError:
        return Rejection("decoding the file takes too much memory")
    except Exception as error:  # decoders raise errors of any type
        return Rejection("the file cannot be decoded", repr(error))


def _image(path: str, content_type: str, pixels_max: int) -> InspectionResult:
    Image.MAX_IMAGE_PIXELS = None  # the limit below is checked before decoding
    with Image.open(path, formats=[DECODERS[content_type]]) as image:
        width, height = image.size
        if width * height > pixels_max:
            raise DocumentRejected(f"the image has more than {pixels_max} pixels")
        image.draft("RGB", (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))  # a JPEG can be decoded smaller
        thumbnail = _thumbnail(_with_8_bit_channels(image))
        if image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
            width, height = height, width
        return InspectionResult(thumbnail, width=width, height=height)


def _pdf(path: str) -> InspectionResult:
    import pypdfium2  # noqa: PLC0415  # takes a third of the time of a process that decodes an image

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        locked = error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD
        raise DocumentRejected(
            "the PDF is password-protected" if locked else "the file cannot be decoded", repr(error)
        ) from error
    with document:
        pages = len(document)
        if not pages:
            raise DocumentRejected("the PDF has no pages")
        page = document[0]
        scale = THUMBNAIL_PIXELS / max(page.get_size())
        return InspectionResult(_thumbnail(page.render(scale=scale).to_pil()), pages=pages)


def _thumbnail(small: Image.Image) -> bytes:
    """Reduce an image to a thumbnail, and encode it."""
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    upright = ImageOps.exif_transpose(small)
    plain = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    plain.info.clear()
    webp = BytesIO()
    plain.save(webp, "WEBP", quality=QUALITY)
    return webp.getvalue()


def _with_8_bit_channels(image: ImageFile.ImageFile) -> Image.Image:
    """Return the image with 8 bits per channel, and without a palette or a transparent color.

    Only then can its pixels be averaged. An image that needs no change is not copied, since it may be large.
    """
    raw_mode = str(image.tile[0].args)
    scale = GRAY_SCALES.get(raw_mode, 1.0)
    is_16_bits = image.mode.startswith("I")
    result = image.point(lambda gray: gray * scale).convert("L") if is_16_bits else image
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and result.mode == "L":
        result.info["transparency"] = int(transparent * scale)
    return result if transparent is None and result.mode not in {"1", "P", "PA"} else result.convert("RGBA")


def _limit_resources(limits: DecodingLimits) -> None:
    """Apply resource limits to this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + 1 + limits.cpu_seconds,
    }
    if sys.platform == "linux":
        bounds[resource.RLIMIT_AS] = _address_space_bytes() + limits.memory_bytes
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        limit = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (limit, limit))


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    run_at_low_priority(main)
