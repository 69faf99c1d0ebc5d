"""Looking into files nobody vouches for: a picture of what can be shown, and limits for the rest."""

import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from samples import JPEG, PNG, bomb_of_pixels, bomb_of_rows, bomb_of_scans, bomb_of_text, picture

from service.documents.decoding import inspect_file
from service.documents.inspection_types import DecodingLimits, DocumentRejected, InspectionResult

LIMITS = DecodingLimits(pixels=50_000_000, memory_bytes=805_306_368, cpu_seconds=20)
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}


def limits_now() -> list[tuple[int, int]]:
    return [
        resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)
    ]


AT_FIRST = limits_now()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def seen(
    file: Path, content: bytes, content_type: str = "image/png", limits: DecodingLimits = LIMITS
) -> InspectionResult:
    file.write_bytes(content)
    return inspect_file(str(file), content_type, limits)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *((mode, "JPEG") for mode in ("L", "RGB", "CMYK")),
    ],
)
def test_every_kind_of_picture_is_shown(file: Path, mode: str, kind: str) -> None:
    content = BytesIO()
    Image.new(mode, (300, 600)).save(content, kind)
    found = seen(file, content.getvalue(), TYPES[kind])
    assert (found.width, found.height, found.pages) == (300, 600, None)
    with Image.open(BytesIO(found.thumbnail)) as shown:
        assert (shown.format, shown.size) == ("WEBP", (128, 256))
        assert shown.mode == ("RGBA" if mode in {"LA", "RGBA"} else "RGB")


def test_a_small_picture_stays_as_small_as_it_is(file: Path) -> None:
    with Image.open(BytesIO(seen(file, picture(PNG, 20, 10)).thumbnail)) as shown:
        assert shown.size == (20, 10)


def test_a_picture_is_decoded_only_as_what_it_was_declared(file: Path) -> None:
    for content, content_type in ((picture(PNG), "image/jpeg"), (picture(JPEG), "image/png")):
        with pytest.raises(DocumentRejected, match="cannot be decoded"):
            seen(file, content, content_type)


@pytest.mark.parametrize(
    ("bomb", "limits", "problem"),
    [
        (bomb_of_pixels, LIMITS, "the image has more than 50000000 pixels"),
        (partial(picture, PNG, 11, 10), LIMITS._replace(pixels=109), "the image has more than 109 pixels"),
        (bomb_of_rows, LIMITS._replace(memory_bytes=67_108_864), "decoding the file takes too much memory"),
        (bomb_of_text, LIMITS, "the file cannot be decoded"),
    ],
)
def test_what_takes_too_much_is_unfit(
    file: Path, bomb: Callable[[], bytes], limits: DecodingLimits, problem: str
) -> None:
    with pytest.raises(DocumentRejected) as unfit:
        seen(file, bomb(), limits=limits)
    assert unfit.value.problem == problem


def test_no_limit_stays_behind(file: Path) -> None:
    seen(file, picture(PNG))
    with pytest.raises(DocumentRejected):
        seen(file, b"x")
    assert limits_now() == AT_FIRST


LOOK = """
import sys
from service.documents.decoding import inspect_file
from service.documents.inspection_types import DecodingLimits
inspect_file(sys.argv[1], "image/jpeg", DecodingLimits(50_000_000, 805_306_368, cpu_seconds=1))
"""


def test_what_takes_too_much_time_ends_its_process(file: Path) -> None:
    file.write_bytes(bomb_of_scans())
    done = subprocess.run([sys.executable, "-c", LOOK, file], capture_output=True, check=False)
    assert done.returncode == -24, done.stderr  # SIGXCPU


def test_the_process_that_looks_has_little_to_import() -> None:
    code = "import service.documents.decoding, sys; print(sorted(m for m in sys.modules if 'service.' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    needed = ["service.documents", "service.documents.decoding", "service.documents.inspection_types"]
    assert done.stdout.strip() == str(needed)
