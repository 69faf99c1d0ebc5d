"""Ten times as many clients as it can serve: what becomes of those it serves, how fast are the others told?

`make overload`. One `depot serve` with default limits, a durable PostgreSQL, and the clients on the same
machine. 64 clients that ask as fast as they are answered take all it has: fewer get as much, only sooner.
Then there are ten times as many of them: first such as wait when they are refused, as `Retry-After` tells
them, then such as ask again at once, which is the worst they can do. Each figure is the median of several
rounds: the machine's own speed changes by a tenth from one to the next.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.database import item_id, server
from bench.peer import HOST, PEERS, Running, running

RESULTS = Path(__file__).with_name("results")
CLIENTS = 64
TIMES = 10
ROUNDS = 3
SECONDS_MAX = 60
HOT = f'{{"customer_id": "c-1", "lines": [{{"item_id": "{item_id(0)}", "quantity": 1}}]}}'


class Load(Struct, frozen=True):
    clients: int
    served_per_second: float
    served_p99_ms: float
    refused_per_second: float
    refused_p99_ms: float
    wrong: int
    """Replies that are neither a success nor a 503, and connections that broke."""


class Answers(Struct, frozen=True):
    """What `clients.py` prints."""

    replies: list[tuple[int, float]]
    """Status and milliseconds."""
    lost: int
    """Connections that broke."""


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


def measured(depot: Running, path: str, body: str | None, seconds: int) -> list[Load]:
    """At capacity, and with ten times as many clients: patient ones, and others."""
    loads = partial(drive, depot, path, body, seconds=seconds)
    drive(depot, path, body, clients=16, seconds=2)  # warms up
    rounds = [
        (
            loads(clients=CLIENTS),
            loads(clients=CLIENTS * TIMES),
            loads(clients=CLIENTS * TIMES, patient=False),
        )
        for _ in range(ROUNDS)
    ]
    return [median_load(same) for same in zip(*rounds, strict=True)]


def median_load(loads: Sequence[Load]) -> Load:
    return Load(*(median(getattr(load, field) for load in loads) for field in Load.__struct_fields__))


def drive(
    depot: Running, path: str, body: str | None, *, clients: int, seconds: int, patient: bool = True
) -> Load:
    command = [sys.executable, str(Path(__file__).with_name("clients.py")), "--host", HOST]
    command += ["--port", str(depot.port), "--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run(
        [*command, *["--patient"] * patient],
        input=request(path, body, depot.key),
        check=True,
        stdout=subprocess.PIPE,
        timeout=seconds + 60,
    )
    return load(clients, seconds, msgspec.json.decode(done.stdout, type=Answers))


def request(path: str, body: str | None, key: str) -> bytes:
    method = "GET" if body is None else "POST"
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {key}\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n{body or ''}".encode()


def load(clients: int, seconds: int, answers: Answers) -> Load:
    served = [took for status, took in answers.replies if 200 <= status < 300]
    refused = [took for status, took in answers.replies if status == 503]
    return Load(
        clients,
        len(served) / seconds,
        p99_ms(served),
        len(refused) / seconds,
        p99_ms(refused),
        len(answers.replies) - len(served) - len(refused) + answers.lost,
    )


def p99_ms(durations: Sequence[float]) -> float:
    return sorted(durations)[len(durations) * 99 // 100] if durations else 0.0


def show(title: str, at_capacity: Load, patient: Load, insistent: Load) -> None:
    table = Table("clients", "served/s", "p99", "refused", "p99 ", "wrong", "goodput", "p99 ×", title=title)
    for name, load in (("", at_capacity), (" wait", patient), (" insist", insistent)):
        table.add_row(
            f"{load.clients}{name}",
            f"{load.served_per_second:,.0f}",
            f"{load.served_p99_ms:.1f} ms",
            f"{load.refused_per_second:,.0f}",
            f"{load.refused_p99_ms:.1f} ms",
            f"{load.wrong}",
            f"{load.served_per_second / at_capacity.served_per_second:.0%}",
            f"{load.served_p99_ms / at_capacity.served_p99_ms:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
