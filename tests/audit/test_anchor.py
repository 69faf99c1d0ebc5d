"""`depot audit head` prints an anchor, which reveals that the database was reverted to an older state."""

from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from service.audit.chain import seal
from service.database.database import Database
from service.settings import Settings
from service.testing import database_url_for, execute
from tests.support.app_helpers import connected
from tests.support.depot_command import NEW_INTERPRETER, depot

PLAIN = Settings()
CopyDatabase = Callable[[], Awaitable[str]]

ACTION = "insert into events (type, subject, actor, payload) values ('user.action', 'ann', 'key', '{}')"


END_SESSIONS = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1"
"""A database can be copied only while nobody uses it."""


async def act(url: str, times: int) -> None:
    """Record events, and seal them."""
    async with Database(Settings(database_url=url)).open() as database:
        for _ in range(times):
            await database.fetch(ACTION)
        await seal(database, PLAIN)


@pytest.fixture
def copy_database(server_url: str, database_url: str) -> Iterator[CopyDatabase]:
    """Yield a function that copies the test's database and returns the copy's URL."""
    name = f"depot_copy_{uuid4().hex[:12]}"
    original = urlsplit(database_url).path[1:]

    async def copy() -> str:
        async with connected(server_url) as connection:
            await connection.execute(END_SESSIONS, original)
            await connection.execute(f"create database {name} template {original}")
        return database_url_for(server_url, name)

    yield copy
    execute(server_url, f"drop database if exists {name} with (force)")


async def test_the_head_is_the_anchor_that_verify_prints(database_url: str) -> None:
    await act(database_url, 3)
    head = depot(database_url, "audit", "head", **NEW_INTERPRETER)
    assert (head.returncode, head.stderr) == (0, "")
    verified = depot(database_url, "audit", "verify", "--anchor", head.stdout.strip())
    assert verified.returncode == 0
    assert verified.stdout.split()[-1] == head.stdout.strip()


async def test_a_lost_timeline_is_consistent_in_itself_and_an_anchor_reveals_it(
    database_url: str, copy_database: CopyDatabase
) -> None:
    """This is the state after an older backup was restored, or a standby that was behind was promoted."""
    await act(database_url, 3)
    known_before = depot(database_url, "audit", "head").stdout.strip()
    restored = await copy_database()
    await act(database_url, 2)
    lost = depot(database_url, "audit", "head").stdout.strip()

    assert depot(restored, "audit", "verify").returncode == 0
    assert depot(restored, "audit", "verify", "--anchor", known_before).returncode == 0
    shorter = depot(restored, "audit", "verify", "--anchor", lost)
    assert shorter.returncode == 1
    assert "before the anchor" in shorter.stdout

    await act(restored, 4)
    assert depot(restored, "audit", "verify").returncode == 0
    other = depot(restored, "audit", "verify", "--anchor", lost)
    assert other.returncode == 1
    assert "does not match the anchor" in other.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "delete from seals where position > 1",
        "update sealing set settled_at = now()",
        "delete from sealing",
    ],
)
async def test_the_head_of_a_forged_chain_is_not_printed(database_url: str, statement: str) -> None:
    await act(database_url, 3)
    async with connected(database_url) as owner:
        await owner.execute(f"set session_replication_role = replica; {statement}")
    head = depot(database_url, "audit", "head")
    assert (head.returncode, head.stdout) == (1, "")
    assert "seal" in head.stderr


@pytest.mark.parametrize("anchor", ["nonsense", "1:xyz", "", "-1", "1:"])
def test_an_invalid_anchor_is_rejected_with_an_example(database_url: str, anchor: str) -> None:
    refused = depot(database_url, "audit", "verify", f"--anchor={anchor}")
    assert refused.returncode == 2
    assert "depot audit head" in " ".join(refused.stderr.split())
