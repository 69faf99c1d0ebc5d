"""Decoding of an untrusted file, in a separate process that the file may crash.

Imports nothing else of the service, so that a process starts quickly.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pypdfium2
from PIL import Image, ImageOps

from service.documents.inspection_types import DecodingLimits, DocumentRejected, InspectionResult

THUMBNAIL_PIXELS = 256
"""Length of the longer side."""
QUALITY = 80
DECODERS = {"image/png": "PNG", "image/jpeg": "JPEG"}


def inspect_file(path: str, content_type: str, limits: DecodingLimits) -> InspectionResult:
    """Decode a file and make its thumbnail. Raises `DocumentRejected`.

    Excessive CPU time or a decoder crash ends the process.
    """
    with _resource_limits(limits):
        try:
            return _pdf(path) if content_type == "application/pdf" else _image(path, content_type, limits)
        except DocumentRejected:
            raise
        except MemoryError:
            raise DocumentRejected("decoding the file takes too much memory") from None
        except Exception as error:  # decoders raise errors of any type
            raise DocumentRejected("the file cannot be decoded", repr(error)) from error


def _image(path: str, content_type: str, limits: DecodingLimits) -> InspectionResult:
    Image.MAX_IMAGE_PIXELS = None  # the limit below is checked before decoding
    with Image.open(path, formats=[DECODERS[content_type]]) as image:
        width, height = image.size
        if width * height > limits.pixels:
            raise DocumentRejected(f"the image has more than {limits.pixels} pixels")
        image.draft("RGB", (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))  # a JPEG can be decoded smaller
        return InspectionResult(_thumbnail(image), width=width, height=height)


def _pdf(path: str) -> InspectionResult:
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


def _thumbnail(image: Image.Image) -> bytes:
    """Make a thumbnail. The steps are ordered so that a large image is not copied unless it has a palette."""
    small = image.convert("RGBA") if image.mode in {"1", "P", "PA"} else image
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    upright = ImageOps.exif_transpose(small)
    plain = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    plain.info.clear()
    webp = BytesIO()
    plain.save(webp, "WEBP", quality=QUALITY)
    return webp.getvalue()


@contextmanager
def _resource_limits(limits: DecodingLimits) -> Iterator[None]:
    """Apply soft resource limits; the process is reused afterwards."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + 1 + limits.cpu_seconds,
    }
    if sys.platform == "linux":
        bounds[resource.RLIMIT_AS] = _address_space_bytes() + limits.memory_bytes
    before = {kind: resource.getrlimit(kind) for kind in bounds}
    try:
        for kind, bound in bounds.items():
            _, hard = before[kind]
            resource.setrlimit(kind, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
        yield
    finally:
        for kind, limits_before in before.items():
            resource.setrlimit(kind, limits_before)


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
