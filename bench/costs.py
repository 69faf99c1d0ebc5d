"""What a request costs PostgreSQL: CPU, bytes of its log, and rows."""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from bench import process_usage
from bench.database import Database
from bench.load import WORKS, drive
from bench.peer import PEERS, Running, running

WARM_UP_SECONDS = 2
COSTED = ("get64", "patch64", "action64", "order")
LOG_BYTES = "select pg_current_wal_lsn() - '0/0'::pg_lsn"
ROWS = "select sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint from pg_stat_user_tables"


class RequestCost(Struct, frozen=True):
    """The cost of one request. Bytes of the log include whole pages after a checkpoint."""

    work: str
    requests_per_second: float
    service_cpu_us: float
    postgres_cpu_us: float
    log_bytes: float
    rows: float


def request_costs(server: Database, directory: Path, seconds: int) -> Iterator[RequestCost]:
    """Measure each kind of request with 64 clients, on a new database of the server."""
    with running(PEERS["depot"], server, directory) as peer:
        for work in COSTED:
            drive(peer, WORKS[work], WARM_UP_SECONDS)
            yield _measure(peer, work, seconds)


def _measure(peer: Running, work: str, seconds: int) -> RequestCost:
    peer.database.settle()
    before = _spent(peer)
    figures = drive(peer, WORKS[work], seconds)
    peer.database.settle()
    requests = figures.requests
    service, postgres, log, rows = (now - then for now, then in zip(_spent(peer), before, strict=True))
    return RequestCost(
        work,
        round(requests / figures.seconds, 1),
        round(service / requests * 1e6, 1),
        round(postgres / requests * 1e6, 1),
        round(log / requests, 1),
        round(rows / requests, 1),
    )


def _spent(peer: Running) -> tuple[float, float, float, float]:
    return (
        process_usage.cpu_seconds(peer.pid),
        process_usage.cpu_seconds(peer.database.postmaster()),
        float(peer.database.value(LOG_BYTES)),
        float(peer.database.value(ROWS) or 0),
    )
