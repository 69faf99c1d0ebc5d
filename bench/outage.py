"""`make outage SECONDS=60`: take PostgreSQL away in several ways and check what clients see.

Everything is real and local: PostgreSQL servers in a temporary home, `depot serve`, `depot worker`, HTTP over
loopback, and a webhook receiver. Exits with 1 if a check fails. The test suite has the short form.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import structs
from rich.console import Console
from rich.table import Table

from tests.support.outage_load import OutageVerdict
from tests.support.outage_scenarios import BEHIND_PGBOUNCER, OUTAGES
from tests.support.pgbouncer import PROGRAM

SECONDS_MAX = 600.0
PROOFS = {**OUTAGES, **(BEHIND_PGBOUNCER if PROGRAM else {})}

console = Console()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument(
        "--seconds", type=float, default=60, help=f"how long each time (default: 60, at most {SECONDS_MAX:g})"
    )
    options.add_argument("--only", choices=PROOFS, help="one of them")
    given = options.parse_args()
    seconds = min(given.seconds, SECONDS_MAX)
    verdicts = {name: prove(name, seconds) for name in PROOFS if given.only in {None, name}}
    console.print(table(verdicts, seconds))
    wrong = [f"{name}: {problem}" for name, verdict in verdicts.items() for problem in verdict.wrong]
    for problem in wrong[:20]:
        console.print(problem, style="red", markup=False)
    console.print(f"[bold red]{len(wrong)} things are wrong." if wrong else "[bold green]As it should be.")
    return 1 if wrong else 0


def prove(name: str, seconds: float) -> OutageVerdict:
    console.print(f"PostgreSQL {name}: {seconds:g} s …")
    with temporary() as home, temporary() as depot_home:
        return asyncio.run(PROOFS[name](home, depot_home, seconds))


def table(verdicts: dict[str, OutageVerdict], seconds: float) -> Table:
    figures = Table(title=f"PostgreSQL away for {seconds:g} s")
    figures.add_column()
    for name in verdicts:
        figures.add_column(name, justify="right")
    facts = [structs.asdict(verdict) for verdict in verdicts.values()]
    for fact in facts[0]:
        if fact != "wrong":
            figures.add_row(fact.replace("_", " "), *(f"{each[fact]:,}" for each in facts))
    return figures


@contextmanager
def temporary() -> Iterator[Path]:
    """Yield a temporary directory that the server's user can enter."""
    with tempfile.TemporaryDirectory(prefix="depot-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


if __name__ == "__main__":
    sys.exit(main())
