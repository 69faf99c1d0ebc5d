"""`depot audit export` writes every event with its seal, or no file at all."""

import json
from pathlib import Path

import pytest

from conftest import Client
from service.audit.chain import seal
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import item
from tests.support.depot_command import NEW_INTERPRETER, depot


def export(database_url: str, path: Path, **environment: str) -> tuple[int, str, str]:
    completed = depot(database_url, "audit", "export", str(path), **environment)
    return completed.returncode, completed.stdout, completed.stderr


async def test_the_file_has_what_the_audit_trail_has_and_the_seals(
    client: Client, database: Database, database_url: str, tmp_path: Path
) -> None:
    bolt = await item(client, 9, attributes={"size": 1.10, "ü": ["a", None]})
    await client.patch(f"/items/{bolt['id']}", json={"name": "Nut"})
    await seal(database, Settings())
    await client.post("/users/ann/actions", json={"action": "login"})
    path = tmp_path / "trail ü.jsonl"
    status, out, err = export(database_url, path, **NEW_INTERPRETER)
    assert status == 0, err
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert out == f"{len(lines)} events exported\n"
    listed = (await client.get("/audit", params={"limit": 200})).json()["data"]
    assert [{name: line[name] for name in listed[0]} for line in reversed(lines)] == listed
    seals = await database.fetch("select position, encode(hash, 'hex') as hash from seals order by event_id")
    assert [line["seal"] for line in lines] == [*map(dict, seals), None]


async def test_numbers_keep_their_digits(client: Client, database_url: str, tmp_path: Path) -> None:
    sent = b'{"action": "pay", "metadata": {"n": 1.10, "big": 12345678901234567890.123}}'
    reply = await client.post(
        "/users/ann/actions", content=sent, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 201
    assert export(database_url, tmp_path / "trail")[0] == 0
    assert b"12345678901234567890.123" in (tmp_path / "trail").read_bytes()
    assert b"1.10" in (tmp_path / "trail").read_bytes()


@pytest.mark.parametrize(
    ("name", "words"), [("missing/trail.jsonl", "cannot write"), ("directory", "is a directory")]
)
def test_a_file_that_cannot_be_written_is_one_clear_line(
    database_url: str, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "directory").mkdir()
    status, out, err = export(database_url, tmp_path / name)
    assert status != 0
    assert out == ""
    assert "Traceback" not in err
    assert words in err


async def test_a_full_disk_is_named_as_the_cause(client: Client, database_url: str, tmp_path: Path) -> None:
    await item(client, 9)
    path = tmp_path / "trail.jsonl"
    path.with_name("trail.jsonl.partial").symlink_to("/dev/full")
    status, _, err = export(database_url, path)
    assert status != 0
    assert f"cannot write {path}: No space left on device" in err


def test_a_failed_export_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "trail.jsonl"
    path.write_text("earlier\n")
    status, _, err = export("postgresql://127.0.0.1:1/depot", path)
    assert status != 0
    assert "database" in err
    assert path.read_text() == "earlier\n"
    assert [*tmp_path.iterdir()] == [path]
