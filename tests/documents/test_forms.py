"""An upload is a form with one file, whose name is decoded from every usual encoding."""

import httpx
import pytest
from samples import Sample, chunk, sample
from upload_helpers import BOUNDARY, CAT, END, FORM, content, in_chunks, part, post, stored_keys

from service.settings import Settings
from tests.support.reply_assertions import assert_refused, wrong_fields

Client = httpx.AsyncClient
EXTENDED = "filename*=utf-8''%D1%84%D0%BE%D1%82%D0%BE.png"


@pytest.fixture
def client(concurrent_client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return a client that sends a body in chunks, which Litestar's own test client does not."""
    return concurrent_client


# Names


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../../etc/passwd", "passwd.png"),
        ("C:\\cats\\cat.png", "cat.png"),
        ("", "document.png"),
        ("a" * 300 + ".png", "a" * 251 + ".png"),
        ("請求書\u202e.png", "請求書.png"),
        ('say "cheese".png', 'say "cheese".png'),
    ],
)
async def test_a_file_name_is_data_and_never_a_path(
    client: Client, app_settings: Settings, sent: str, shown: str
) -> None:
    name = sent.replace('"', "%22")
    reply = await post(client, part(Sample(name, CAT.content, "image/png")) + END)
    assert reply.json()["filename"] == shown
    document = reply.json()
    assert "filename*=UTF-8''" in (await content(client, document)).headers["Content-Disposition"]
    assert await stored_keys(app_settings) == {f"documents/{document['id']}"}


@pytest.mark.parametrize(
    ("disposition", "shown"),
    [
        ('form-data; name="file"; filename="фото.png"', "фото.png"),
        (f'form-data; name=file; filename="=?utf-8?B?0YTQvtGC0L4ucG5n?="; {EXTENDED}', "фото.png"),
        (f'form-data; name=file; {EXTENDED}; filename="photo.png"', "фото.png"),
        (f'form-data; name="file"; {EXTENDED}', "фото.png"),
        ('form-data; name="file"; FileName*="UTF-8\'ru\'%D1%84.png"', "ф.png"),
        ("form-data; name=\"file\"; filename*=iso-8859-1''%E9t%E9.png", "été.png"),
        ("form-data; name=\"file\"; filename*=bogus''%41.png", "A.png"),
        ('form-data; name="file"; filename="=?utf-8?Q?=D1=84?= =?utf-8?B?LnBuZw==?="', "ф.png"),
        ('form-data; name="file"; filename="=?bogus?B?0YTQ?="', "=?bogus?B?0YTQ?=.png"),
        ('form-data; name="file"; filename="=??="', "=??=.png"),
        ('form-data; name="file"; filename="invoice.hta"', "invoice.hta.png"),
    ],
)
async def test_a_name_is_understood_however_a_client_encodes_it(
    client: Client, disposition: str, shown: str
) -> None:
    lines = [f"--{BOUNDARY}", f"Content-Disposition: {disposition}", "Content-Type: image/png", "", ""]
    reply = await post(client, "\r\n".join(lines).encode() + CAT.content + b"\r\n" + END)
    assert (reply.status_code, reply.json().get("filename")) == (201, shown)


# Forms


def saying(more: bytes) -> bytes:
    """Return the form with another header in its part."""
    return FORM.replace(b"Content-Type", more + b"\r\nContent-Type") + END


TEXT = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\nhello\r\n'.encode()


@pytest.mark.parametrize(
    ("why", "body"),
    [
        ("nothing", b""),
        ("no multipart", b"hello"),
        ("JSON", b'{"file": "x"}'),
        ("no end", FORM),
        ("half an end", FORM + END[:-3]),
        ("another boundary", (FORM + END).replace(BOUNDARY.encode(), b"x")),
        ("bare line feeds", FORM.replace(b"\r\n", b"\n") + END),
        ("headers without an end", f"--{BOUNDARY}\r\nContent-Disposition: form-data".encode()),
        ("a part without a name", FORM.replace(b"Content-Disposition", b"X-Disposition") + END),
        ("a part of another kind", FORM.replace(b"form-data;", b"attachment;") + END),
        ("a header without a colon", FORM.replace(b"Content-Type:", b"Content-Type") + END),
        ("a header that is no UTF-8", FORM.replace(b"cat.png", b"\xff.png") + END),
        ("a header that is too long", FORM.replace(b"cat.png", b"x" * 5000) + END),
        ("too many headers", saying(b"X-A: b\r\n" * 10 + b"X-B: c")),
        ("a part longer than it says", saying(b"Content-Length: 5")),
        ("a part shorter than it says", saying(b"Content-Length: 9999")),
        ("a length that is none", saying(b"Content-Length: five")),
    ],
)
async def test_a_body_other_than_a_form_is_malformed(client: Client, why: str, body: bytes) -> None:
    assert_refused(await post(client, body), 400, "MALFORMED_MULTIPART")
    assert_refused(await post(client, in_chunks(body, 7)), 400, "MALFORMED_MULTIPART")


@pytest.mark.parametrize("boundary", ["", "; boundary=", f"; boundary={'x' * 71}"])
async def test_an_invalid_boundary_is_malformed(client: Client, boundary: str) -> None:
    reply = await post(client, FORM + END, f"multipart/form-data{boundary}")
    assert_refused(reply, 400, "MALFORMED_MULTIPART")


@pytest.mark.parametrize(
    "content_type", ["application/json", "image/png", "multipart/mixed; boundary=x", "x", ""]
)
async def test_a_media_type_other_than_multipart_is_not_supported(client: Client, content_type: str) -> None:
    reply = await post(client, FORM + END, content_type)
    assert_refused(reply, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert reply.headers["Accept"] == "multipart/form-data"


@pytest.mark.parametrize(
    ("why", "body", "fields"),
    [
        ("no part", END, {"/file"}),
        ("another part", part(CAT, "picture") + END, {"/picture", "/file"}),
        ("another part before it", part(CAT, "a~/b") + FORM + END, {"/a~0~1b", "/file"}),
        ("another part behind it", FORM + part(CAT, "more") + END, {"/more"}),
        ("the part twice", FORM + FORM + END, {"/file"}),
        ("text", TEXT + END, {"/file"}),
        ("no name", part(CAT, "") + END, {"/", "/file"}),
    ],
)
async def test_only_the_part_file_is_accepted(
    client: Client, app_settings: Settings, why: str, body: bytes, fields: set[str]
) -> None:
    assert wrong_fields(await post(client, body)) == fields
    assert await stored_keys(app_settings) == set()


@pytest.mark.parametrize("length", [1, 2, 3, 10, 40, 1000])
async def test_a_form_is_read_the_same_however_it_is_split_into_chunks(client: Client, length: int) -> None:
    reply = await post(client, in_chunks(FORM + END, length))
    assert reply.status_code == 201


async def test_bytes_before_and_after_a_form_are_ignored(client: Client) -> None:
    for body in (b"preamble\r\n" + FORM + END, FORM + END + b"epilogue", FORM + END[:-2]):
        assert (await post(client, body)).status_code == 201
        assert (await post(client, in_chunks(body, 100))).status_code == 201


async def test_a_file_can_contain_bytes_that_resemble_a_delimiter(client: Client) -> None:
    comment = chunk(b"tEXt", b"a\0\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n\r\n--\r")
    sent = sample("x.png", CAT.content[:-12] + comment + CAT.content[-12:])
    for length in (10**6, 1, 5):
        reply = await post(client, in_chunks(part(sent) + END, length))
        assert reply.json()["size_bytes"] == len(sent.content)
