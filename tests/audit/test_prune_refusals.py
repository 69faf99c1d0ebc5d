"""`depot audit prune` refuses what is not sealed or not exported."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.audit.prune import PruneRejected, delete_pruned, prune
from service.database.database import Database
from tests.support.depot_command import NEW_INTERPRETER, depot
from tests.support.journal_history import (
    HOUR,
    NOON,
    PLAIN,
    count,
    export,
    findings,
    happened,
    prune_all,
    record_history,
    tamper,
)


@pytest.fixture
async def history(database: Database) -> Database:
    return await record_history(database)


def without_one(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], *lines[5:]]


INVALID_FILES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "is empty": lambda lines: [],
    "ends too early": lambda lines: lines[:6],
    "ends within a line": lambda lines: [*lines[:9], lines[9][:-20]],
    "ends before a line feed": lambda lines: [*lines[:9], lines[9].rstrip()],
    "lacks an event": without_one,
    "has another event": lambda lines: [*lines[:3], lines[3].replace(b"login", b"logout"), *lines[4:]],
    "has another order": lambda lines: [lines[1], lines[0], *lines[2:]],
    "was written before the seals": lambda lines: [
        line[: line.index(b'"seal":')] + b'"seal":null}\n' for line in lines
    ],
    "is something else": lambda lines: [b"sku,name\n", b"B-1,Bolt\n"],
    "is another JSON file": lambda lines: [b"{}\n"],
    "is binary": lambda lines: [bytes(range(256))],
}


@pytest.mark.parametrize("invalid", INVALID_FILES.values(), ids=INVALID_FILES)
async def test_nothing_is_pruned_unless_the_file_holds_every_event(
    history: Database, invalid: Callable[[list[bytes]], list[bytes]]
) -> None:
    with pytest.raises(PruneRejected, match="file"):
        await prune(history, PLAIN, NOON, iter(invalid(await export(history))))
    assert await delete_pruned(history, PLAIN) == 0
    assert (await count(history), await findings(history)) == (20, [])


@pytest.mark.parametrize("away", [timedelta(minutes=-1), HOUR, timedelta(days=9000)])
async def test_an_event_that_is_not_sealed_yet_is_not_pruned(history: Database, away: timedelta) -> None:
    """Until the time has passed, another event from before it can appear."""
    with pytest.raises(PruneRejected, match="the journal is sealed up to 20"):
        await prune_all(history, datetime.now(UTC) + away)
    assert await count(history) == 20


async def test_without_a_seal_nothing_is_pruned(database: Database) -> None:
    await happened(database, NOON - HOUR)
    with pytest.raises(PruneRejected, match="no event is sealed yet"):
        await prune_all(database)


async def test_a_journal_that_was_tampered_with_is_not_pruned(history: Database, database_url: str) -> None:
    await tamper(database_url, "update events set actor = 'x' where payload->>'n' = '3'")
    with pytest.raises(PruneRejected, match="depot audit verify"):
        await prune_all(history)


async def test_the_command_prunes_and_says_where_the_chain_begins(
    history: Database, database_url: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "trail ü.jsonl")
    arguments = ("audit", "prune", "--before", NOON.isoformat(), "--exported", file)
    assert depot(database_url, "audit", "export", file).returncode == 0
    pruned = depot(database_url, *arguments, **NEW_INTERPRETER)
    assert pruned.returncode == 0, pruned.stderr
    anchor = pruned.stdout.split()[-1]
    assert pruned.stdout == f"10 events pruned, the chain begins at {anchor}\n"
    assert anchor.startswith("10:")
    assert depot(database_url, "audit", "verify", "--anchor", anchor).returncode == 0
    older = depot(database_url, "audit", "verify", "--anchor", f"9:{'00' * 32}")
    assert (older.returncode, anchor in older.stderr) == (1, True)
    again = depot(database_url, *arguments)
    assert (again.returncode, again.stdout) == (0, f"0 events pruned, the chain begins at {anchor}\n")


async def test_the_command_says_why_nothing_is_pruned(
    history: Database, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "trail.jsonl"
    file.write_bytes(b"")
    arguments = ("audit", "prune", "--exported", str(file), "--before")
    for before, words in ((NOON.isoformat(), "does not hold event"), ("2062-01-01", "is sealed up to")):
        refused = depot(database_url, *arguments, before)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "nothing was pruned" in refused.stderr
        assert words in " ".join(refused.stderr.split())
    wrong = depot(database_url, *arguments, "yesterday")
    assert wrong.returncode == 2
    assert "RFC 3339" in wrong.stderr
    assert depot(database_url, "audit", "prune", "--before", "2026-01-01").returncode == 2
