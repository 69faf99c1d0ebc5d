"""Tests of the log: request ids, no forged lines, and no secret."""

import asyncio
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import httpx
import pytest
from msgspec.structs import replace

from service.auth.keys import mint
from service.auth.store import create_key
from service.database.database import Database
from service.observability.logs import AccessLogEntry, AccessLogWriter
from service.observability.redaction import PATH_LENGTH_MAX, redact_path, redactor
from service.settings import Settings
from tests.support.depot_command import run_depot, run_program, start_depot
from tests.support.depot_process import DepotProcess, depot_serve

Make = Callable[..., Awaitable[str]]
TRACE = "0af7651916cd43dd8448eb211c80319c"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]")
FORGED = "\r\n2026-01-01 [info] forged\x1b[2J\x1b]0;title\x07\x9b31m\u2028\u202e\x00"
OFFLINE = """
select pg_terminate_backend(pid) from pg_stat_activity
where pid <> pg_backend_pid() and datname = current_database()"""
PASSWORD, SECRET = "pa55word-of-the-database", "a-secret-that-keys-the-hashes-of-keys"


def written(style: str, code: str, stderr: IO[bytes] | None = None) -> str:
    """Return the stderr of a process with this log format."""
    program = f"""
import asyncio, logging, structlog
from datetime import datetime, UTC
from service.observability.log_stream import LogStream
from service.observability.logs import AccessLogEntry, access_log, configure_logs
configure_logs({style!r}, {{{PASSWORD!r}, "short"}})
log, text = structlog.get_logger(), {FORGED!r}
async def write(path):
    entry = AccessLogEntry("GET", path, None, 404, None, 1.0, "id", None, None, None, datetime.now(UTC))
    access_log({style!r})(entry)
def access(path):
    asyncio.run(write(path))
{code}
"""
    done = run_program(program, stderr=stderr)
    assert done.returncode == 0, done.stderr
    return done.stderr


RAISED = """
try:
    raise ValueError(text)
except ValueError:
    LOGGER.exception('said')
"""
SAYINGS = {
    "a value": "log.warning('said', cause=text)",
    "the event": "log.warning('said ' + text)",
    "another library": "logging.getLogger('other').warning('said %s', text)",
    "an access": "access('/' + text)",
    "an exception": RAISED.replace("LOGGER", "log"),
    "an exception of another library": RAISED.replace("LOGGER", "logging.getLogger('other')"),
}


@pytest.mark.parametrize("saying", SAYINGS)
@pytest.mark.parametrize("style", ["json", "console"])
def test_logged_text_cannot_forge_lines_or_escapes(style: str, saying: str) -> None:
    text = written(style, SAYINGS[saying])
    assert not CONTROL.search(text), repr(text)
    lines = text.splitlines()
    assert not [line for line in lines if line.startswith("2026-01-01")]
    assert "forged" in text
    if style == "json":
        (line,) = lines
        assert json.loads(line)["event"].startswith(("said", "request"))
    elif "exception" not in saying:
        assert len(lines) == 1


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_log_on_a_full_disk_raises_nothing(style: str) -> None:
    with Path("/dev/full").open("wb") as full:
        written(style, "\n".join(list(SAYINGS.values())[:4]), full)


@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_are_redacted_everywhere(style: str) -> None:
    key = mint()
    text = written(
        style,
        f"""
log.warning("said", key={key!r}, url="postgresql://depot:pw@db/depot", webhook="whsec_MfKQ9r8GKYqrTwjU")
log.warning({PASSWORD!r})
try:
    raise ValueError("{key} {PASSWORD} whsec_MfKQ9r8GKYqrTwjU")
except ValueError:
    log.exception("unhandled_error")
    logging.getLogger("other").exception("unhandled_error")
access("/items/{key}")
""",
    )
    for secret in (key, key[-20:], PASSWORD, "MfKQ9r8GKYqrTwjU", ":pw@"):
        assert secret not in text
    assert key[:18] in text.replace("\n", "")  # the id of the key may be shown


def test_ordinary_texts_are_unchanged() -> None:
    clean = redactor({"depot"})  # too short to be redacted: it may be a common word
    for text in (
        "/items/depot",
        "depot: 3 orders",
        "Schraube M8, rostfrei",
        "日本語",
        "http://a:80/b",
        "a@b",
    ):
        assert clean(text) == redact_path(text) == text
    assert redact_path("/a\nb") == "/a\\nb"
    assert redact_path("/\ud800") == "/\\ud800"


def test_a_long_path_is_cut_after_redaction() -> None:
    password = "s" * 100
    logged = redact_path("/depot_/" + "x" * (PATH_LENGTH_MAX - 50) + f"://user:{password}@host" + "/y" * 9999)
    assert len(logged) == PATH_LENGTH_MAX + 1
    assert "sss" not in logged


async def test_every_line_of_a_request_has_its_ids(
    database_url: str, tmp_path: Path, key: str, database: Database
) -> None:
    await database.fetch("alter table items add check (name <> 'no') not valid")
    await database.fetch("alter table resources rename to gone")
    with depot_serve(database_url, tmp_path / "home") as server:
        async with server.client(key) as client:
            ids = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
            await client.post("/items", json={"sku": "A", "name": "no", "price": "1"}, headers=ids)
            await client.get("/resources", headers=ids)
            await client.get("/nowhere")
        server.wait_for("request", 3)
        for name in ("unhandled_error", "dependency_unavailable"):
            (line,) = server.events(name)
            assert (line["request_id"], line["trace_id"]) == ("mine", TRACE)
        assert [line["request_id"] for line in server.events("request")].count("mine") == 2
        assert [line["code"] for line in server.events("request")] == [
            "INTERNAL_ERROR", "DATABASE_UNAVAILABLE", "NOT_FOUND",
        ]  # fmt: skip
        assert "request_id" not in server.events("listening")[0]


async def test_successful_probes_are_not_logged(database_url: str, tmp_path: Path, key: str) -> None:
    with depot_serve(database_url, tmp_path / "home") as server:
        async with server.client(key) as client:
            for path in ("/health", "/health/live", "/health/ready", "/metrics", "/health/else", "/items"):
                await client.get(path)
        server.wait_for("request", 2)
        assert [line["path"] for line in server.events("request")] == ["/health/else", "/items"]


async def test_every_request_is_logged_when_the_server_stops(
    database_url: str, tmp_path: Path, key: str
) -> None:
    with depot_serve(database_url, tmp_path / "home", DEPOT_DRAIN_SECONDS="0") as server:
        async with server.client(key) as client:
            for _ in range(30):
                await client.get("/nope")
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.process.wait, 10) == 0
        assert len(server.events("request")) == 30


def test_access_log_lines_are_buffered_even_if_python_buffers_nothing(tmp_path: Path) -> None:
    program = """
import asyncio, os
from datetime import datetime, UTC
from service.observability.logs import AccessLogEntry, access_log, configure_logs
configure_logs("json")
async def write():
    entry = AccessLogEntry("GET", "/", None, 200, None, 1.0, "id", None, None, None, datetime.now(UTC))
    access_log("json")(entry)
    print(os.fstat(2).st_size)
asyncio.run(write())
"""
    with (tmp_path / "log").open("wb") as log:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=log, check=True
        )
    assert done.stdout == b"0\n"
    assert (tmp_path / "log").read_bytes().count(b"\n") == 1


async def test_a_reader_of_the_log_that_stops_delays_no_request(database_url: str, tmp_path: Path) -> None:
    environment = {**os.environ, "DATABASE_URL": database_url, "DEPOT_HOME": str(tmp_path)}
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = start_depot(["serve", "--port", "0"], env=environment, stderr=writer)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as log:
        started = json.loads(next(line for line in log if b'"listening"' in line))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{started['port']}", timeout=5) as client:
            for _ in range(60):
                assert (await client.get("/nope")).status_code == 404
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.05)
        assert await asyncio.to_thread(process.wait, 10) == 0


async def test_a_server_error_is_logged_immediately(tmp_path: Path) -> None:
    def entry(status: int) -> AccessLogEntry:
        return AccessLogEntry("GET", "/", None, status, None, 1.0, "id", None, None, None, datetime.now(UTC))

    with (tmp_path / "log").open("wb") as out:
        writer = AccessLogWriter(out)
        writer.write(entry(200))
        assert (tmp_path / "log").read_bytes() == b""
        writer.write(entry(503))
        assert (tmp_path / "log").read_bytes().count(b"\n") == 2


async def test_a_live_server_logs_no_secret_during_errors_and_outages(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    async with database.orm_session() as session:
        key = await create_key(session, name="test", scopes=["admin"], secret=SECRET)
    url = with_password(settings)
    with depot_serve(url, tmp_path / "home", DEPOT_SECRET=SECRET) as server:
        async with server.client(key) as client:
            created = await client.post(
                "/webhooks", json={"url": "https://example.com/", "events": ["order.placed"]}
            )
            assert created.status_code == 201, created.text
            secrets = [created.json()["secret"], key, SECRET, PASSWORD]
            await database.fetch("alter table webhooks add constraint odd check (version < 1) not valid")
            crashed = await client.post(
                "/webhooks", json={"url": "https://example.com/", "events": ["order.placed"]}
            )
            assert crashed.status_code == 500
            rotated = await client.post(f"/webhooks/{created.json()['id']}/secret")
            assert rotated.status_code == 500
            await client.get(f"/items/{key}")
            await client.get("/items", headers={"Authorization": f"Bearer {key[:-1]}"})
            await asyncio.to_thread(
                raw,
                server,
                f"GET /%0d%0aforged%1b[31m?{key} HTTP/1.1\r\nHost: a\r\nUser-Agent: {key}\x1b\r\n\r\n",
            )
            await database.fetch(OFFLINE)
            await client.get("/items")
        log = server.log.read_text()
    assert len([line for line in log.splitlines() if '"unhandled_error"' in line]) == 2
    assert not CONTROL.search(log)
    for secret in (*secrets, key[-20:]):
        assert secret not in log


def raw(server: DepotProcess, request: str) -> bytes:
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.encode("latin-1"))
        return connection.recv(65536)


def with_password(settings: Settings) -> str:
    """Return the URL with a password; the server trusts every connection to its socket."""
    head, _, rest = (settings.database_url or "").partition("@")
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.partition(':')[0]}:{PASSWORD}@{rest}"


BAD_URLS = [
    f"postgresql://depot:{PASSWORD}@127.0.0.1:port/depot",
    f"postgresql://depot:{PASSWORD}@127.0.0.1:1/depot",
    f"postgresql://depot:12/{PASSWORD}@127.0.0.1:1/depot",
    f"postgresql://depot:a#{PASSWORD}@127.0.0.1:1/depot",
    f"postgresql://depot:[{PASSWORD}@127.0.0.1:1/depot",
    f"postgresql://depot:%zz{PASSWORD}@127.0.0.1:1/depot",
    f"postgresql://127.0.0.1:1/depot?password={PASSWORD}&sslmode=never",
    f"postgresql:// {PASSWORD}",
    f"mysql://depot:{PASSWORD}@127.0.0.1/depot",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_database_url_is_one_line_without_its_password(url: str) -> None:
    environment = {**os.environ, "DATABASE_URL": url, "DEPOT_SECRET": SECRET}
    done = run_depot(["migrate"], env=environment)
    assert done.returncode == 1
    assert PASSWORD not in done.stdout + done.stderr
    assert SECRET not in done.stderr
    assert done.stderr.startswith("depot: ")
    assert done.stderr.count("\n") == 1, done.stderr


def test_settings_list_their_secrets(settings: Settings) -> None:
    url = "postgresql://u:p%40ss%2Fword@h/db?password=other-word"
    secrets = replace(settings, database_url=url, secret=SECRET).secrets()
    assert {"p%40ss%2Fword", "p@ss/word", "other-word", SECRET} <= secrets
    assert replace(settings, database_url=None, secret=None).secrets() == set()
