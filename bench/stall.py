"""Send requests of the maximum size: how long does a health check wait meanwhile?

`make stall`. One `depot serve` with default limits. Every request of `tests/support/large_requests.py` is
sent in turn, again and again in another order. It exits with status 1 if a health check took longer than
0.1 s, which does not happen on an idle machine with two cores.
"""

import argparse
import sys
from random import Random
from time import monotonic

from rich.console import Console
from rich.table import Table

from bench.database import server
from bench.overload import RESULTS
from bench.peer import HOST, PEERS, running
from tests.support.large_requests import LARGE_REQUESTS, longest_wait

WAIT_SECONDS_MAX = 0.1
SECONDS_MAX = 600
SHOWN = 15
SEED = 42


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seconds", type=int, default=60, help="how long to send (default: 60)")
    seconds = max(5, min(options.parse_args().seconds, SECONDS_MAX))
    RESULTS.mkdir(exist_ok=True)
    with server(RESULTS) as database, running(PEERS["depot"], database, RESULTS) as depot:
        waits = measure((HOST, depot.port), depot.key, seconds)
    show(waits)
    return int(max(waits.values()) > WAIT_SECONDS_MAX)


def measure(address: tuple[str, int], key: str, seconds: float) -> dict[str, float]:
    """Return the longest wait beside each request; each is sent at least once."""
    waits = dict.fromkeys(LARGE_REQUESTS, 0.0)
    end, random = monotonic() + seconds, Random(SEED)
    names = list(waits)
    while True:
        for name in names:
            _, wait = longest_wait(address, key, name)
            waits[name] = max(waits[name], wait)
        if monotonic() > end:
            return waits
        random.shuffle(names)


def show(waits: dict[str, float]) -> None:
    table = Table("request", "longest wait of /health/live", title=f"the worst {SHOWN} of {len(waits)}")
    for name, wait in sorted(waits.items(), key=lambda pair: -pair[1])[:SHOWN]:
        table.add_row(name, f"{wait * 1000:.0f} ms")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
