"""Measure load shedding with more and more clients.

`make overload`. One `depot serve` with default limits, a durable PostgreSQL, and the clients on the same
machine. 64, 128 and 256 clients send as fast as they get replies; almost none of their requests may be
rejected. Then ten times as many send: first clients that obey `Retry-After`, then clients that repeat a
rejected request immediately, which is the worst that they can do. Each figure is the median of several
rounds, because the speed of the machine changes by a tenth from one to the next. Goodput is relative to 256
clients.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.database import item_id, server
from bench.peer import HOST, PEERS, Running, running

RESULTS = Path(__file__).with_name("results")
BASELINE = 256
OVERLOAD = 10 * BASELINE
CROWDS = [(64, True), (128, True), (BASELINE, True), (OVERLOAD, True), (OVERLOAD, False)]
"""The number of clients, and whether they obey `Retry-After`."""
SECONDS_MAX = 60
HOT = f'{{"customer_id": "c-1", "lines": [{{"item_id": "{item_id(0)}", "quantity": 1}}]}}'
WORKS = {
    "GET item": ("GET", f"/items/{item_id(1)}", None),
    "PATCH item": ("PATCH", f"/items/{item_id(1)}", '{"description": "new"}'),
    "hot-item order": ("POST", "/orders", HOT),
}


class Load(Struct, frozen=True):
    clients: int
    served_per_second: float
    served_p99_ms: float
    refused_per_second: float
    refused_p99_ms: float
    wrong: int
    """Replies that are neither a success nor a 503, and broken connections."""


class Replies(Struct, frozen=True):
    """The output of `clients.py`."""

    replies: list[tuple[int, float]]
    """Status and milliseconds."""
    lost: int
    """Broken connections."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seconds", type=int, default=8, help="how long each load lasts (default: 8)")
    options.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    configured = options.parse_args()
    seconds = max(2, min(configured.seconds, SECONDS_MAX))
    RESULTS.mkdir(exist_ok=True)
    with server(RESULTS) as database, running(PEERS["depot"], database, RESULTS) as depot:
        for title, (method, path, body) in WORKS.items():
            drive(depot, path, body, method=method, clients=16, seconds=2)  # warms up
            rounds = [
                [
                    drive(depot, path, body, method=method, clients=clients, seconds=seconds, patient=patient)
                    for clients, patient in CROWDS
                ]
                for _ in range(configured.rounds)
            ]
            show(title, [median_load(same) for same in zip(*rounds, strict=True)])


def median_load(loads: Sequence[Load]) -> Load:
    return Load(*(median(getattr(load, field) for load in loads) for field in Load.__struct_fields__))


def drive(
    depot: Running,
    path: str,
    body: str | None,
    *,
    clients: int,
    seconds: int,
    method: str = "GET",
    patient: bool = True,
) -> Load:
    """Run clients in a process of their own. `patient`: they obey `Retry-After`."""
    command = [sys.executable, str(Path(__file__).with_name("clients.py")), "--host", HOST]
    command += ["--port", str(depot.port), "--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run(
        [*command, *["--patient"] * patient],
        input=request(method, path, body, depot.key),
        check=True,
        stdout=subprocess.PIPE,
        timeout=seconds + 60,
    )
    return load(clients, seconds, msgspec.json.decode(done.stdout, type=Replies))


def request(method: str, path: str, body: str | None, key: str) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {key}\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n{body or ''}".encode()


def load(clients: int, seconds: int, output: Replies) -> Load:
    served = [duration for status, duration in output.replies if 200 <= status < 300]
    refused = [duration for status, duration in output.replies if status == 503]
    return Load(
        clients,
        len(served) / seconds,
        p99_ms(served),
        len(refused) / seconds,
        p99_ms(refused),
        len(output.replies) - len(served) - len(refused) + output.lost,
    )


def p99_ms(durations: Sequence[float]) -> float:
    return sorted(durations)[len(durations) * 99 // 100] if durations else 0.0


def show(title: str, loads: list[Load]) -> None:
    table = Table(
        "clients", "served/s", "p99", "rejected/s", "share", "p99 ", "wrong", "goodput", title=title
    )
    (baseline,) = (load for load in loads if load.clients == BASELINE)
    for (_, patient), load in zip(CROWDS, loads, strict=True):
        total = load.served_per_second + load.refused_per_second
        table.add_row(
            f"{load.clients}{'' if patient else ' impatient'}",
            f"{load.served_per_second:,.0f}",
            f"{load.served_p99_ms:.1f} ms",
            f"{load.refused_per_second:,.0f}",
            f"{load.refused_per_second / (total or 1):.1%}",
            f"{load.refused_p99_ms:.1f} ms",
            f"{load.wrong}",
            f"{load.served_per_second / (baseline.served_per_second or 1):.0%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
