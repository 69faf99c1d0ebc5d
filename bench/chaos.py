"""`make chaos`: kill processes at random under load and check that nothing is lost or done twice.

Everything is real and local: embedded PostgreSQL in a temporary home, `depot serve`, `depot worker`, HTTP
over loopback, and a webhook receiver that verifies signatures. Exits with 1 if a check fails. The test suite
has the short form.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from msgspec import structs
from rich.console import Console

from bench.database import Database
from service.database.embedded import postgres
from tests.support.chaos_events import Verdict, prove_events
from tests.support.chaos_jobs import JobsVerdict, prove_jobs
from tests.support.depot_command import depot_output

ROUNDS_MAX = 10_000
A_ROUND = 1000
JOBS_A_ROUND = 25
KILLS_A_ROUND = 2

console = Console()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=20, help=f"default: 20, at most {ROUNDS_MAX}")
    options.add_argument("--seed", type=int, help="default: a random one, which is printed")
    given = options.parse_args()
    rounds = max(1, min(given.rounds, ROUNDS_MAX))
    seed = secrets.randbelow(2**31) if given.seed is None else given.seed
    console.print(f"seed {seed}, {rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="depot-") as name:
        home = Path(name)
        home.chmod(0o755)
        with postgres(home) as url:
            wrong = prove(home, Database(url), rounds, seed)
    console.print("[bold red]Not all is well." if wrong else "[bold green]Nothing lost, nothing twice.")
    return 1 if wrong else 0


def prove(home: Path, server: Database, rounds: int, seed: int) -> list[str]:
    """Run both chaos tests, each on its own database."""
    url, key = prepared(server, "events")
    events = prove_events(url, home / "events", key, rounds=rounds, a_round=A_ROUND, seed=seed)
    wrong = told("orders and actions", asyncio.run(events))
    url, key = prepared(server, "jobs")
    counts = {"jobs": rounds * JOBS_A_ROUND, "kills": rounds * KILLS_A_ROUND}
    jobs = prove_jobs(url, home / "jobs", key, **counts, seed=seed)
    return wrong + told("jobs", asyncio.run(jobs))


def prepared(server: Database, name: str) -> tuple[str, str]:
    """Create a migrated database and an API key for it."""
    url = server.create(name).url
    depot_output(url, "migrate")
    return url, depot_output(url, "keys", "create", "--name", "chaos", "--scope", "admin")


def told(what: str, verdict: Verdict | JobsVerdict) -> list[str]:
    facts = structs.asdict(verdict)
    wrong: list[str] = facts.pop("wrong")
    figures = ", ".join(f"{count:,} {fact.replace('_', ' ')}" for fact, count in facts.items())
    console.print(f"{what}: {figures}; [bold]{len(wrong)} wrong[/]")
    for problem in wrong[:20]:
        console.print(f"  {problem}", style="red", markup=False)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
