"""Ways in which a database becomes unreachable, each with its check: for tests and `make outage`."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from service.testing import execute
from tests.support.outage_load import OutageVerdict, prove_outage
from tests.support.pgbouncer import pgbouncer, settings_behind
from tests.support.postgres_nodes import Node, node, standby

Prove = Callable[[Path, Path, float], Coroutine[Any, Any, OutageVerdict]]
"""Its arguments: a home for PostgreSQL, one for Depot, and the seconds of the outage."""
Act = Callable[[Node], None]


async def _returns(
    break_database: Act, restore_database: Act, home: Path, depot_home: Path, seconds: float
) -> OutageVerdict:
    with node(home) as database:
        return await prove_outage(
            database.url,
            depot_home,
            break_database=lambda: break_database(database),
            restore_database=lambda: restore_database(database),
            seconds=seconds,
            judged_url=database.url,
        )


async def _returns_to_pgbouncer(
    break_database: Act, restore_database: Act, home: Path, depot_home: Path, seconds: float
) -> OutageVerdict:
    with node(home) as database, pgbouncer(database) as url:
        return await prove_outage(
            url,
            depot_home,
            break_database=lambda: break_database(database),
            restore_database=lambda: restore_database(database),
            seconds=seconds,
            judged_url=database.url,
            **settings_behind(database),
        )


async def _is_replaced(break_database: Act, home: Path, depot_home: Path, seconds: float) -> OutageVerdict:
    with node(home) as primary, standby(home, primary) as copy:
        await asyncio.to_thread(_synchronize, primary)
        servers = f"127.0.0.1:{primary.port},127.0.0.1:{copy.port}"
        return await prove_outage(
            f"postgresql://postgres@{servers}/postgres?target_session_attrs=read-write",
            depot_home,
            break_database=lambda: break_database(primary),
            restore_database=copy.promote,
            seconds=seconds,
            judged_url=copy.url,
        )


def _synchronize(primary: Node) -> None:
    """Make commits wait for the standby."""
    execute(primary.url, "alter system set synchronous_standby_names = '*'")
    execute(primary.url, "select pg_reload_conf()")


OUTAGES: dict[str, Prove] = {
    "silent": partial(_returns, Node.suspend, Node.resume),
    "killed": partial(_returns, Node.kill, Node.start),
    "killed, its standby promoted": partial(_is_replaced, Node.kill),
    "silent, its standby promoted": partial(_is_replaced, Node.suspend),
}

BEHIND_PGBOUNCER: dict[str, Prove] = {
    "silent, behind PgBouncer": partial(_returns_to_pgbouncer, Node.suspend, Node.resume),
    "killed, behind PgBouncer": partial(_returns_to_pgbouncer, Node.kill, Node.start),
}
