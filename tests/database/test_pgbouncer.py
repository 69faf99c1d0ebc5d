"""Behind PgBouncer in transaction mode everything works, as docs/database.md has it set up."""

import asyncio
from pathlib import Path

import pytest

from tests.support.chaos_events import UNDELIVERED
from tests.support.chaos_jobs import UNFINISHED
from tests.support.fault_injection import wait_until_zero
from tests.support.outage_load import KINDS, Load, client, cluster, judge_books, prepare, unhealthy
from tests.support.outage_scenarios import BEHIND_PGBOUNCER
from tests.support.pgbouncer import pgbouncer, settings_behind
from tests.support.postgres_nodes import node
from tests.support.recording_receiver import recording_receiver
from tests.support.requirements import requires

SECONDS = 3.0

pytestmark = requires("pgbouncer")


async def test_every_kind_of_request_works_through_pgbouncer(home: Path, tmp_path: Path) -> None:
    with node(home) as server, pgbouncer(server) as url:
        with cluster(url, tmp_path / "depot", **settings_behind(server)) as (service, worker, key):
            async with recording_receiver() as receiver, client(service.url, key) as session:
                load = Load([session], await prepare(session, receiver))
                async with load.running():
                    await asyncio.sleep(SECONDS)
                for unfinished in (UNDELIVERED, UNFINISHED):
                    await wait_until_zero(server.url, unfinished)
                assert list(unhealthy(service, worker, outages=0)) == []
        assert [attempt for attempt in load.attempts if not attempt.succeeded] == []
        assert {attempt.kind for attempt in load.attempts} == KINDS.keys()
        assert await judge_books(server.url, receiver, load) == []


@pytest.mark.parametrize("outage", BEHIND_PGBOUNCER)
async def test_while_the_database_behind_pgbouncer_is_down_requests_are_rejected_immediately(
    home: Path, tmp_path: Path, outage: str
) -> None:
    verdict = await BEHIND_PGBOUNCER[outage](home, tmp_path / "depot", SECONDS)
    assert verdict.wrong == []
    assert verdict.failed == 0
