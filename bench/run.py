"""`make bench`: compare Depot with its peers, one after the other, on one machine and one PostgreSQL.

The main result is the service's CPU per request. Requests per second depend as much on wrk, PostgreSQL and
other programs, which share the cores. PostgreSQL's CPU is shown too, because work can be moved there.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.status import Status

from bench.chart import chart
from bench.database import Database, server
from bench.errors import BenchError
from bench.load import WORKS, Work, wrk_is_missing
from bench.measure import Row, Start, measure
from bench.peer import PEERS, Peer, running
from bench.report import save, show
from bench.runtimes import PREPARE
from bench.verify_work import audit, prove

RESULTS = Path(__file__).with_name("results")
SECONDS_MAX = 600


def main() -> None:
    options = _options()
    if wrk_is_missing():
        sys.exit("apt-get install wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that what was started is stopped
    RESULTS.mkdir(exist_ok=True)
    console = Console()
    try:
        with server(RESULTS) as database, console.status("") as status:
            postgres = database.value("show server_version")
            figures = list(_figures(options, database, status))
    except BenchError as error:
        sys.exit(f"bench: {error}")
    starts = [figure for figure in figures if isinstance(figure, Start)]
    rows = [figure for figure in figures if isinstance(figure, Row)]
    show(starts, rows, console)
    save(starts, rows, options.seconds, postgres, RESULTS / "latest.json")
    (RESULTS / "latest.svg").write_text(chart(rows))


def _figures(options: argparse.Namespace, database: Database, status: Status) -> Iterator[Start | Row]:
    works = [WORKS[name] for name in options.work]
    peers = [name for name in options.peers if _is_ready(name, status)]
    for workers in options.workers:
        for name in peers:
            yield from _measured(PEERS[name], workers, works, options.seconds, database, status)


def _is_ready(name: str, status: Status) -> bool:
    status.update(f"{name}: preparing")
    missing = PREPARE[name]() if name in PREPARE else None
    if missing:
        status.console.print(f"{name}: skipped, {missing}")
    return missing is None


def _measured(
    peer: Peer, workers: int, works: list[Work], seconds: int, server: Database, status: Status
) -> Iterator[Start | Row]:
    """Yield the results of a peer, whose database is checked after it has stopped."""
    with running(peer, server, RESULTS, workers) as started:
        if workers == 1:  # of several, only the first would be known to be there
            ready_ms = round(started.ready_seconds * 1000)
            yield Start(peer=peer.name, ready_ms=ready_ms, rest_rss_mib=round(started.rest_rss_mib, 1))
        prove(started)
        for work in (work for work in works if peer.name in work.peers):
            status.update(f"{peer.name} × {workers}: {work.title}, {work.connections} clients, {seconds} s")
            yield measure(started, workers, work, seconds)
    audit(peer.name, started.database)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="how long each load lasts (default: 8)")
    for option, known in (("--peers", PEERS), ("--work", WORKS)):
        text = f"some of: {' '.join(known)} (default: all)"
        parser.add_argument(option, nargs="+", choices=known, default=list(known), metavar="NAME", help=text)
    parser.add_argument(
        "--workers", type=int, nargs="+", choices=range(1, 9), default=[1, 2], metavar="COUNT",
        help="processes of each peer, a table for each count (default: 1 2)",
    )  # fmt: skip
    options = parser.parse_args()
    if not 1 <= options.seconds <= SECONDS_MAX:
        parser.error(f"--seconds must be from 1 to {SECONDS_MAX}")
    return options


if __name__ == "__main__":
    main()
