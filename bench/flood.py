"""`make flood`: flood the service with unknown keys, then with deliveries to webhooks that hang.

One `depot serve` with default limits, a durable PostgreSQL, and all clients on the same machine. After each
flood, 48 ordinary clients must be served within 5 s, and the concurrency limit must be back at its maximum
within 5 s more; the command fails otherwise. Beside the hanging webhooks, the ordinary clients send too, and
none of their requests may be rejected.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from rich.console import Console
from rich.table import Table

from bench.database import server
from bench.overload import RESULTS
from tests.support.depot_command import depot_output
from tests.support.depot_process import depot_serve
from tests.support.floods import Recovery, flood_with_hanging_webhooks, flood_with_unknown_keys, recover

SECONDS_MAX = 60.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seconds", type=float, default=10, help="how long each flood lasts (default: 10)")
    seconds = min(options.parse_args().seconds, SECONDS_MAX)
    RESULTS.mkdir(exist_ok=True)
    with server(RESULTS) as database, TemporaryDirectory(dir=RESULTS) as home:
        url = database.create("flood").url
        depot_output(url, "migrate")
        key = depot_output(url, "keys", "create", "--name", "flood", "--scope", "admin")
        with depot_serve(url, Path(home), DEPOT_WEBHOOK_ALLOW_PRIVATE="1") as served:
            outcomes = uvloop.run(floods(served.url, key, seconds))
    show(outcomes)
    return int(any(status != 200 for status in outcomes["25 webhooks that hang"][0]))


async def floods(url: str, key: str, seconds: float) -> dict[str, tuple[Counter[int], Recovery]]:
    """Return the replies to each flood, and the recovery from it."""
    outcomes = {}
    for path in ("/metrics", "/items"):
        statuses = await flood_with_unknown_keys(url, path, seconds)
        outcomes[f"unknown keys on {path}"] = statuses, await recover(url, key)
    return outcomes | {"25 webhooks that hang": await flood_with_hanging_webhooks(url, key, seconds)}


def show(outcomes: dict[str, tuple[Counter[int], Recovery]]) -> None:
    table = Table("flood", "replies", "limit after it", "48 clients served after", "limit restored after")
    for name, (statuses, recovery) in outcomes.items():
        replies = ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))
        table.add_row(
            name,
            replies,
            f"{recovery.lowest_limit:,.0f}",
            f"{recovery.served_seconds:.2f} s",
            f"{recovery.recovery_seconds:.2f} s",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
