"""The chain over the journal: every edited, deleted, reordered or inserted event is found and named."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec.structs import replace

from conftest import Client
from service.audit import chain
from service.audit.chain import accept, link_hash, seal
from service.audit.sealing_state import GENESIS
from service.audit.verify import verify
from service.database.database import Database
from service.jobs.kinds import KindRegistry
from service.settings import Settings
from service.worker import SCHEDULES, Worker
from tests.support.app_helpers import connected, eventually, item
from tests.support.depot_command import NEW_INTERPRETER, depot
from tests.support.journal_history import PLAIN, findings, tamper

FORMER_SECRET = "the former secret, of 32 characters at least"
OTHER_SECRET = "another secret, of 32 characters at least"

FILL = """
insert into events (type, subject, actor, payload)
select 'item.updated', 'i-' || n, 'key', jsonb_build_object('n', n, 'price', '9.' || n)
from generate_series(1, $1) n"""


@pytest.fixture
async def sealed(database: Database) -> Database:
    """Return the database with twenty events, all of them sealed."""
    await database.fetchval(FILL, 20)
    assert await seal(database, PLAIN) == await database.fetchval("select count(*) from events")
    return database


async def test_an_unchanged_journal_has_no_findings(sealed: Database) -> None:
    found = await verify(sealed, PLAIN)
    assert found.findings == []
    assert found.unsealed == 0
    assert found.head.position == await sealed.fetchval("select count(*) from events")


async def test_the_events_of_the_service_are_sealed_unchanged(client: Client, database: Database) -> None:
    bolt = await item(client, 9, attributes={"size": 1.10, "ü": ["a", None]})
    await client.patch(f"/items/{bolt['id']}", json={"price": "0"})
    await client.post("/users/ann/actions", json={"action": "login"})
    assert (await verify(database, PLAIN)).unsealed == await seal(database, PLAIN) >= 3
    assert await findings(database) == []
    await client.delete(f"/items/{bolt['id']}")
    assert (await verify(database, PLAIN)).unsealed == 1
    assert await seal(database, PLAIN) == 1
    assert await seal(database, PLAIN) == 0
    assert await findings(database) == []


EDITS = {
    "update events set payload = payload || '{\"n\": 0}' where subject = 'i-7'": "changed",
    "update events set actor = 'somebody' where subject = 'i-7'": "changed",
    "update events set request_id = 'r' where subject = 'i-7'": "changed",
    "update events set type = 'item.deleted' where subject = 'i-7'": "changed",
    "update events set created_at = created_at + interval '1 us' where subject = 'i-7'": "changed",
    "delete from events where subject = 'i-7'": "deleted",
}


@pytest.mark.parametrize(("statement", "what"), EDITS.items())
async def test_an_edited_or_deleted_event_is_found_and_no_other(
    sealed: Database, database_url: str, statement: str, what: str
) -> None:
    event_id = await sealed.fetchval("select id from events where subject = 'i-7'")
    await tamper(database_url, statement)
    (finding,) = await findings(sealed)
    assert str(event_id) in finding
    assert what in finding


async def test_two_events_that_were_swapped_are_found(sealed: Database, database_url: str) -> None:
    await tamper(
        database_url,
        """create temporary table pair as select position, event_id from seals where position in (5, 6);
           update seals set event_id = gen_random_uuid() where position in (5, 6);
           update seals s set event_id = p.event_id from pair p where s.position = 11 - p.position""",
    )
    found = await findings(sealed)
    assert [text for text in found if "seal 5" in text] and [text for text in found if "seal 6" in text]


async def test_a_changed_link_is_found(sealed: Database, database_url: str) -> None:
    await tamper(database_url, "update seals set hash = sha256(hash) where position = 9")
    assert any("seal 9" in finding for finding in await findings(sealed))


async def test_a_deleted_link_is_found_with_or_without_its_event(sealed: Database, database_url: str) -> None:
    await tamper(database_url, "delete from seals where position = 9")
    assert any("seals 9 to 9 were deleted" in finding for finding in await findings(sealed))


async def test_an_event_inserted_into_the_past_is_found(sealed: Database, database_url: str) -> None:
    await sealed.fetchval("update sealing set settled_at = now()")
    await accept(sealed, PLAIN)
    await tamper(
        database_url,
        """insert into events (id, type, subject, actor, payload, created_at)
           values ('01900000-0000-7000-8000-000000000000', 'order.placed', 'x', 'y', '{}', '2024-06-10')""",
    )
    (finding,) = await findings(sealed)
    assert "01900000-0000-7000-8000-000000000000 is missing" in finding
    assert await seal(sealed, PLAIN) == 0


async def test_a_truncated_chain_is_found_with_an_anchor(sealed: Database, database_url: str) -> None:
    anchor = (await verify(sealed, PLAIN)).head
    assert await findings(sealed, anchor) == []
    await tamper(
        database_url,
        """delete from events where id in (select event_id from seals where position > 15);
           delete from seals where position > 15""",
    )
    (finding,) = await findings(sealed)
    assert "seals were deleted" in finding
    await accept(sealed, PLAIN)
    assert await findings(sealed) == []
    (finding,) = await findings(sealed, anchor)
    assert "the chain ends at seal 15" in finding


async def test_a_chain_that_was_rewritten_with_another_key_is_found(
    sealed: Database, database_url: str, settings: Settings
) -> None:
    await tamper(database_url, "truncate seals; update sealing set settled_at = '-infinity'")
    await accept(sealed, replace(PLAIN, secret=OTHER_SECRET))
    async with Database(settings).open() as other_process:
        assert await seal(other_process, replace(PLAIN, secret=OTHER_SECRET)) >= 20
    assert len(await findings(sealed)) >= 20


async def test_while_the_secret_is_changed_the_former_seals_stay_valid_and_new_ones_follow(
    database: Database,
) -> None:
    former = replace(PLAIN, secret=FORMER_SECRET)
    changing = replace(PLAIN, secret=OTHER_SECRET, secret_previous=FORMER_SECRET)
    await database.fetchval(FILL, 3)
    assert await seal(database, former) == 3
    assert (await verify(database, changing)).findings == []
    await database.fetchval(FILL.replace("'i-'", "'j-'"), 2)
    assert await seal(database, changing) == 2
    assert (await verify(database, changing)).findings == []
    await database.fetchval(FILL.replace("'i-'", "'k-'"), 2)
    assert await seal(database, former) == 0  # a worker that was not restarted yet
    assert await seal(database, replace(PLAIN, secret=OTHER_SECRET)) == 2  # a worker that was restarted
    assert (await verify(database, changing)).findings == []
    assert len((await verify(database, replace(PLAIN, secret=OTHER_SECRET))).findings) == 3


async def test_a_seal_of_the_former_secret_after_its_change_is_found(
    database: Database, database_url: str
) -> None:
    former = replace(PLAIN, secret=FORMER_SECRET)
    changing = replace(PLAIN, secret=OTHER_SECRET, secret_previous=FORMER_SECRET)
    await database.fetchval(FILL, 2)
    await seal(database, former)
    await database.fetchval(FILL.replace("'i-'", "'j-'"), 2)
    await seal(database, changing)
    await accept(database, former)
    await database.fetchval(FILL.replace("'i-'", "'k-'"), 1)
    assert await seal(database, former) == 1
    (finding,) = (await verify(database, changing)).findings
    assert "seal 5" in finding


async def test_a_chain_that_was_rewritten_with_its_key_is_found_with_an_anchor(
    sealed: Database, database_url: str, settings: Settings
) -> None:
    anchor = (await verify(sealed, PLAIN)).head
    await tamper(
        database_url,
        """update events set actor = 'x' where subject = 'i-3';
           truncate seals; update sealing set settled_at = '-infinity'""",
    )
    await accept(sealed, PLAIN)
    async with Database(settings).open() as other_process:
        await seal(other_process, PLAIN)
    assert await findings(sealed) == []
    (finding,) = await findings(sealed, anchor)
    assert "the chain was rewritten" in finding


FORGE = """update events set actor = 'x' where subject = 'i-9';
delete from seals where position >= (select position from seals join events on event_id = events.id
  where subject = 'i-9');"""
FORGERIES = {
    "the watermark is set back": "update sealing set settled_at = '-infinity'",
    "the watermark stays": "",
    "the state is reset": "update sealing set settled_at = '-infinity', mac = null",
    "the state is deleted": "delete from sealing",
    "the state is another row": "delete from sealing; insert into sealing values (true, '-infinity')",
    "the state is made up": "update sealing set settled_at = '-infinity', mac = sha256(mac)",
}


@pytest.mark.parametrize("cover", FORGERIES.values(), ids=FORGERIES)
async def test_forged_history_is_not_sealed(
    sealed: Database, database_url: str, settings: Settings, cover: str
) -> None:
    await tamper(database_url, f"{FORGE} {cover}")
    async with Database(settings).open() as restarted_worker:
        for _ in range(2):
            assert await seal(restarted_worker, PLAIN) == 0
    assert await findings(sealed) != []


async def test_a_chain_that_starts_again_under_an_older_journal_is_not_sealed(
    database: Database, database_url: str
) -> None:
    await tamper(
        database_url,
        """insert into events (id, type, subject, actor, payload)
           values ('01900000-0000-7000-8000-000000000000', 'order.placed', 'x', 'y', '{}')""",
    )
    assert await seal(database, PLAIN) == 0
    (finding,) = await findings(database)
    assert "depot audit accept" in finding
    await accept(database, PLAIN)
    assert await seal(database, PLAIN) >= 1
    assert await findings(database) == []


async def test_an_older_state_that_is_restored_is_not_sealed_by_a_running_worker(
    sealed: Database, database_url: str
) -> None:
    await tamper(database_url, "create table copy as select * from sealing")
    await sealed.fetchval(FILL.replace("'i-'", "'j-'"), 5)
    assert await seal(sealed, PLAIN) == 5
    await tamper(
        database_url,
        """update events set actor = 'x' where subject = 'j-3';
           delete from seals where event_id in (select id from events where subject like 'j-%');
           update sealing set settled_at = copy.settled_at, mac = copy.mac from copy""",
    )
    assert await seal(sealed, PLAIN) == 0


async def test_only_one_process_seals_at_a_time(settings: Settings) -> None:
    async with Database(settings).open() as one, Database(settings).open() as other:
        await one.fetchval(FILL, 3000)
        sealed = await asyncio.gather(*[seal(database, PLAIN) for database in (one, other) * 4])
        assert sum(sealed) == await one.fetchval("select count(*) from events") == 3000
        assert await findings(one) == []


async def test_an_event_that_commits_late_is_sealed_late(
    sealed: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "MAX_CLOCK_SKEW", timedelta(0))
    async with connected(database_url) as slow:
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(FILL.replace("$1", "1"))
        await sealed.fetchval(FILL, 5)
        assert await seal(sealed, PLAIN) == 5
        await transaction.commit()
    assert await seal(sealed, PLAIN) == 1
    assert await findings(sealed) == []


async def test_the_command_names_the_changed_event_and_fails(sealed: Database, database_url: str) -> None:
    honest = depot(database_url, "audit", "verify", **NEW_INTERPRETER)
    assert honest.returncode == 0, honest.stderr
    anchor = honest.stdout.split()[-1]
    assert depot(database_url, "audit", "verify", "--anchor", anchor).returncode == 0
    event_id = await sealed.fetchval("select id from events where subject = 'i-3'")
    await tamper(database_url, "update events set actor = 'x' where subject = 'i-3'")
    found = depot(database_url, "audit", "verify")
    assert found.returncode == 1
    assert str(event_id) in found.stdout
    assert "tampered" in found.stderr
    wrong = depot(database_url, "audit", "verify", "--anchor", "nonsense")
    assert wrong.returncode == 2  # 1 would mean that the trail was tampered with
    assert "--anchor" in wrong.stderr


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=6, unique=True), st.data())
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_link_depends_on_all_earlier_links(digests: list[bytes], data: st.DataObject) -> None:
    def head(chain: list[bytes]) -> bytes:
        end = GENESIS.hash
        for digest in chain:
            end = link_hash(b"key", end, digest)
        return end

    shuffled = data.draw(st.permutations(digests))
    assert (head(shuffled) == head(digests)) == (shuffled == digests)
    assert head(digests[:-1]) != head(digests)


async def test_a_worker_seals_new_events(database: Database, settings: Settings) -> None:
    await database.fetchval(FILL, 3)
    (schedule,) = [schedule for schedule in SCHEDULES if schedule.name == "audit.seal"]
    worker = Worker(settings, database, KindRegistry([]), schedules=[schedule._replace(cron="* * * * * *")])

    async def sealed() -> bool:
        return (await verify(database, settings)).head.position >= 3

    async with worker.open():
        await eventually(sealed)
