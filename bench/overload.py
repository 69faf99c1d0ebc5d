"""Ten times what it can serve: what becomes of those it serves, and how fast are the others told?

`make overload` (needs h2load: apt-get install nghttp2-client). One `depot serve` with default limits, a
durable PostgreSQL, and h2load on the same machine. Capacity is the best goodput of a few numbers of clients
that ask as fast as they are answered; ten times as many clients do the same then, and do not wait as
`Retry-After` tells them, which is the worst they can do.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from database import item_id, server
from peer import PEERS, Running, running

RESULTS = Path(__file__).with_name("results")
CLIENTS = (16, 32, 64)
TIMES = 10
SECONDS_MAX = 60
HOT = f'{{"customer_id": "c-1", "lines": [{{"item_id": "{item_id(0)}", "quantity": 1}}]}}'


class Load(Struct, frozen=True):
    clients: int
    served_per_second: float
    served_p99_ms: float
    refused_per_second: float
    refused_p99_ms: float
    wrong: int
    """Replies that are neither a success nor a 503."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seconds", type=int, default=8, help="how long each load lasts (default: 8)")
    seconds = max(2, min(options.parse_args().seconds, SECONDS_MAX))
    RESULTS.mkdir(exist_ok=True)
    with server(RESULTS) as database, running(PEERS["depot"], database, RESULTS) as depot:
        for title, path, body in (
            ("GET item", f"/items/{item_id(1)}", None),
            ("hot-item order", "/orders", HOT),
        ):
            show(title, *measured(depot, path, body, seconds))


def measured(depot: Running, path: str, body: str | None, seconds: int) -> tuple[Load, Load]:
    """At capacity, and at ten times as many clients."""
    drive(depot, path, body, clients=16, seconds=2)  # warms up
    at_capacity = max(
        (drive(depot, path, body, clients=clients, seconds=seconds) for clients in CLIENTS),
        key=lambda load: load.served_per_second,
    )
    return at_capacity, drive(depot, path, body, clients=at_capacity.clients * TIMES, seconds=seconds)


def drive(depot: Running, path: str, body: str | None, *, clients: int, seconds: int) -> Load:
    with TemporaryDirectory() as folder:
        log, data = Path(folder, "log"), Path(folder, "body")
        command = ["h2load", "--h1", f"-c{clients}", "-t1", f"-D{seconds}", f"--log-file={log}"]
        if body is not None:
            data.write_text(body)
            command += [f"--data={data}", "-Hcontent-type: application/json"]
        command += [f"-Hauthorization: Bearer {depot.key}", depot.url + path]
        subprocess.run(command, check=True, capture_output=True, timeout=seconds + 60)
        return load(clients, seconds, log.read_text())


def load(clients: int, seconds: int, log: str) -> Load:
    """From h2load's log: start, status and duration (both in µs) of every request."""
    rows = [tuple(map(int, line.split("\t"))) for line in log.splitlines()]
    served = [took for _, status, took in rows if 200 <= status < 300]
    refused = [took for _, status, took in rows if status == 503]
    return Load(
        clients,
        len(served) / seconds,
        p99_ms(served),
        len(refused) / seconds,
        p99_ms(refused),
        len(rows) - len(served) - len(refused),
    )


def p99_ms(durations: Sequence[int]) -> float:
    return sorted(durations)[len(durations) * 99 // 100] / 1000 if durations else 0.0


def show(title: str, at_capacity: Load, beyond: Load) -> None:
    table = Table("clients", "served/s", "p99", "refused/s", "p99 ", "wrong", title=title)
    for load in (at_capacity, beyond):
        table.add_row(
            f"{load.clients}",
            f"{load.served_per_second:,.0f}",
            f"{load.served_p99_ms:.1f} ms",
            f"{load.refused_per_second:,.0f}",
            f"{load.refused_p99_ms:.1f} ms",
            f"{load.wrong}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"goodput {beyond.served_per_second / at_capacity.served_per_second:.0%} of that at capacity, "
        f"p99 of what is served x {beyond.served_p99_ms / at_capacity.served_p99_ms:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
