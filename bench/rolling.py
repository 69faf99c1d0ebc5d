"""`make rolling ROUNDS=20`: restart both replicas behind HAProxy repeatedly under load.

It requires HAProxy (apt-get install haproxy). Everything is real and local: embedded PostgreSQL, two `depot
serve` behind `deploy/haproxy.cfg`, and clients with persistent connections. Exits with 1 if a request fails.
The test suite has the short form.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench.chaos import prepared
from bench.database import Database
from service.database.embedded import postgres
from tests.support.rolling_restart import HAPROXY, Verdict, balanced, prove_rolling

ROUNDS_MAX, RATE_MAX = 1000, 1000

console = Console()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=20, help=f"default: 20, at most {ROUNDS_MAX}")
    options.add_argument("--rate", type=int, default=300, help="requests a second (default: 300)")
    given = options.parse_args()
    if HAPROXY is None:
        sys.exit("apt-get install haproxy")
    with tempfile.TemporaryDirectory(prefix="depot-") as name:
        home = Path(name)
        home.chmod(0o755)
        with postgres(home) as url:
            database_url, key = prepared(Database(url), "rolling")
            with balanced(database_url, home / "replicas") as (balancer, replicas):
                proof = prove_rolling(
                    balancer,
                    replicas,
                    key,
                    rounds=min(given.rounds, ROUNDS_MAX),
                    rate=min(given.rate, RATE_MAX),
                )
                return told(asyncio.run(proof))


def told(verdict: Verdict) -> int:
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(verdict.statuses.items()))
    console.print(
        f"{verdict.restarts} restarts, {verdict.sent:,} requests ({statuses}), "
        f"[bold]{len(verdict.failed)} failed[/], the slowest took {verdict.slowest_ms:,.0f} ms"
    )
    for failure in verdict.failed[:20]:
        console.print(f"  {failure}", style="red", markup=False)
    return 1 if verdict.failed else 0


if __name__ == "__main__":
    sys.exit(main())
