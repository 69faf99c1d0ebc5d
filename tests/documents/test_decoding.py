"""Decoding untrusted files: a thumbnail of what can be shown, and limits for the rest."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from time import monotonic

import psutil
import pytest
from color_pictures import COLOR_PICTURES, ColorPicture
from msgspec.structs import replace
from PIL import Image, ImageStat
from samples import JPEG, PNG, bomb_of_pixels, bomb_of_rows, bomb_of_scans, bomb_of_text, picture

from service.documents.decoder import Decoder, DecoderCrashed
from service.documents.decoding import inspect_file
from service.documents.inspection_types import DecodingLimits, InspectionResult, Outcome, Rejection
from service.errors import Overloaded
from tests.support.app_helpers import eventually

LIMITS = DecodingLimits(pixels=50_000_000, memory_bytes=805_306_368, cpu_seconds=20)
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}
ORIENTATION = 0x0112
COLOR_ERROR_MAX = 6.0
"""Maximum difference of a color, of 255: thumbnails are compressed with losses."""

Inspect = Callable[..., Awaitable[Outcome]]
Decode = Callable[[bytes, str], InspectionResult]


@pytest.fixture
def inspect(tmp_path: Path) -> Inspect:
    async def inspect(
        content: bytes, content_type: str = "image/png", limits: DecodingLimits = LIMITS
    ) -> Outcome:
        file = tmp_path / "file"
        file.write_bytes(content)
        return await Decoder(limits, 2).inspect(str(file), content_type)

    return inspect


async def decoded(outcome: Awaitable[Outcome]) -> InspectionResult:
    result = await outcome
    assert isinstance(result, InspectionResult), result
    return result


@pytest.fixture
def decode(tmp_path: Path) -> Decode:
    """Return the function of a decoder process, called in this one: a process takes a tenth of a second."""

    def decode(content: bytes, content_type: str) -> InspectionResult:
        file = tmp_path / "file"
        file.write_bytes(content)
        result = inspect_file(str(file), content_type, LIMITS.pixels)
        assert isinstance(result, InspectionResult), result
        return result

    return decode


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *((mode, "JPEG") for mode in ("L", "RGB", "CMYK")),
    ],
)
async def test_every_kind_of_image_gets_a_thumbnail(inspect: Inspect, mode: str, kind: str) -> None:
    content = BytesIO()
    Image.new(mode, (300, 600)).save(content, kind)
    found = await decoded(inspect(content.getvalue(), TYPES[kind]))
    assert (found.width, found.height, found.pages) == (300, 600, None)
    with Image.open(BytesIO(found.thumbnail)) as shown:
        assert (shown.format, shown.size) == ("WEBP", (128, 256))
        assert shown.mode == ("RGBA" if mode in {"LA", "RGBA"} else "RGB")


@pytest.mark.parametrize("sent", COLOR_PICTURES, ids=lambda sent: sent.name)
def test_a_thumbnail_has_the_colors_of_its_image(decode: Decode, sent: ColorPicture) -> None:
    found = decode(sent.content, sent.content_type)
    with Image.open(BytesIO(found.thumbnail)) as shown:
        mean = ImageStat.Stat(shown.convert("RGBA")).mean
    assert mean == pytest.approx(sent.mean, abs=COLOR_ERROR_MAX)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", TYPES)
def test_width_and_height_are_as_shown(decode: Decode, kind: str, orientation: int) -> None:
    content, exif = BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", (400, 200)).save(content, kind, exif=exif)
    found = decode(content.getvalue(), TYPES[kind])
    with Image.open(BytesIO(found.thumbnail)) as shown:
        turned = shown.width < shown.height
    assert turned == (orientation >= 5)
    assert (found.width, found.height) == ((200, 400) if turned else (400, 200))


async def test_a_small_image_is_not_enlarged(inspect: Inspect) -> None:
    found = await decoded(inspect(picture(PNG, 20, 10)))
    with Image.open(BytesIO(found.thumbnail)) as shown:
        assert shown.size == (20, 10)


async def test_an_image_is_decoded_only_as_its_declared_type(inspect: Inspect) -> None:
    for content, content_type in ((picture(PNG), "image/jpeg"), (picture(JPEG), "image/png")):
        outcome = await inspect(content, content_type)
        assert isinstance(outcome, Rejection)
        assert outcome.problem == "the file cannot be decoded"


@pytest.mark.parametrize(
    ("bomb", "limits", "problem"),
    [
        (bomb_of_pixels, {}, "the image has more than 50000000 pixels"),
        (partial(picture, PNG, 11, 10), {"pixels": 109}, "the image has more than 109 pixels"),
        (bomb_of_rows, {"memory_bytes": 67_108_864}, "decoding the file takes too much memory"),
        (bomb_of_text, {}, "the file cannot be decoded"),
    ],
)
async def test_a_decompression_bomb_is_rejected(
    inspect: Inspect, bomb: Callable[[], bytes], limits: dict[str, int], problem: str
) -> None:
    outcome = await inspect(bomb(), limits=replace(LIMITS, **limits))
    assert isinstance(outcome, Rejection)
    assert outcome.problem == problem


async def test_a_decoder_beyond_its_cpu_limit_is_killed(inspect: Inspect) -> None:
    with pytest.raises(DecoderCrashed):
        await inspect(bomb_of_scans(), "image/jpeg", replace(LIMITS, cpu_seconds=1))


async def test_a_decoder_that_cannot_start_does_not_reject_the_file(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # every interpreter that starts now dies immediately
    with pytest.raises(Overloaded):
        await inspect(picture(PNG))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(Overloaded):
        await inspect(picture(PNG))


def decoders() -> list[psutil.Process]:
    """Return the decoder processes of this process."""
    return [child for child in psutil.Process().children() if is_decoder(child)]


def is_decoder(process: psutil.Process) -> bool:
    try:
        return "service.documents.decoding" in process.cmdline()
    except psutil.Error:  # it has ended
        return False


async def test_a_decoder_gets_no_secrets_from_the_environment(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = dict.fromkeys(
        ("DATABASE_URL", "DEPOT_SECRET", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"), "a secret"
    )
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    decoding = asyncio.ensure_future(inspect(bomb_of_rows()))
    await eventually(started)
    (process,) = decoders()
    environment = process.environ()
    decoding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await decoding
    assert environment["PATH"] == os.environ["PATH"]
    assert not environment.keys() & secrets.keys()
    assert "a secret" not in environment.values()


async def started() -> bool:
    return bool(decoders())


async def test_the_number_of_concurrent_decoders_is_limited(tmp_path: Path) -> None:
    file, decoder, most = tmp_path / "file", Decoder(LIMITS, 2), 0
    file.write_bytes(picture(PNG))
    inspections = [asyncio.ensure_future(decoder.inspect(str(file), "image/png")) for _ in range(6)]
    while not all(inspection.done() for inspection in inspections):
        most = max(most, len(decoders()))
        await asyncio.sleep(0.01)
    assert all(isinstance(inspection.result(), InspectionResult) for inspection in inspections)
    assert most == 2


async def test_a_cancelled_inspection_ends_its_decoder(inspect: Inspect) -> None:
    decoding = asyncio.ensure_future(inspect(bomb_of_scans(), "image/jpeg"))
    await eventually(started)
    (process,) = decoders()
    cancelled_at = monotonic()
    decoding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await decoding
    assert not process.is_running()
    assert monotonic() - cancelled_at < 10


IMPORTS = """
import sys
from service.documents.decoding import inspect_file
inspect_file(sys.argv[1], "image/png", 1000)
print(*sorted(name for name in sys.modules if name.startswith(("service.", "PIL.")) and "._" not in name))
"""


def test_a_decoder_imports_little(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(picture(PNG, 20, 10))
    command = [sys.executable, "-c", IMPORTS, str(tmp_path / "file")]
    imported = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    ours = ["documents", "documents.decoding", "documents.inspection_types", "jobs", "jobs.process"]
    assert [name for name in imported if "PIL" not in name] == [f"service.{name}" for name in ours]
    assert "PIL.PdfImagePlugin" not in imported, "all plugins of Pillow"
