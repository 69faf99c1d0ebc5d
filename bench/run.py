"""`make bench`: Depot beside its peers, each in turn, on one machine, one PostgreSQL, under one load.

CPU of the service per request is the figure to look at: wrk, PostgreSQL and whatever else runs here share
the cores with it, so requests a second say as much about them. PostgreSQL's own is shown beside it, since
work can be pushed there.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.status import Status

from database import Database, server
from faults import BenchError
from load import WORKS, Work, wrk_is_missing
from measure import Row, measure
from peer import PEERS, Peer, running
from proof import audit, prove
from report import save, show

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
            rows = list(_rows(options, database, status))
    except BenchError as error:
        sys.exit(f"bench: {error}")
    show(rows, console)
    save(rows, options.seconds, postgres, RESULTS / "latest.json")


def _rows(options: argparse.Namespace, database: Database, status: Status) -> Iterator[Row]:
    for name in options.peers:
        yield from _measured(
            PEERS[name], [WORKS[work] for work in options.work], options.seconds, database, status
        )


def _measured(peer: Peer, works: list[Work], seconds: int, server: Database, status: Status) -> Iterator[Row]:
    """A peer's rows. What it did is audited once it is stopped."""
    with running(peer, server, RESULTS) as started:
        prove(started)
        for work in (work for work in works if peer.name in work.peers):
            status.update(f"{peer.name}: {work.title}, {work.connections} clients, {seconds} s")
            yield measure(started, work, seconds)
    audit(peer.name, started.database)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="how long each load lasts (default: 8)")
    for option, known in (("--peers", PEERS), ("--work", WORKS)):
        text = f"some of: {' '.join(known)} (default: all)"
        parser.add_argument(option, nargs="+", choices=known, default=list(known), metavar="NAME", help=text)
    options = parser.parse_args()
    if not 1 <= options.seconds <= SECONDS_MAX:
        parser.error(f"--seconds must be from 1 to {SECONDS_MAX}")
    return options


if __name__ == "__main__":
    main()
