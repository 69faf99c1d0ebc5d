"""`make guards`: take away what keeps each promise, one at a time, and see a test go red.

The pitfalls are those of the article that Depot rebuilds, the promises those of its contract under fault.
Exits with 1 if a guard can go unnoticed. docs/mutation-testing.md is the table for readers.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from service.database.embedded import postgres
from service.testing import FAST_OPTIONS

ROOT = Path(__file__).parents[2]


class Guard(NamedTuple):
    promise: str
    module: str
    code: str
    broken: str
    tests: str


GUARDS = [
    Guard(
        "null overwrite: what a PATCH omits keeps its value",
        "items/schemas.py",
        "description: Description | None | UnsetType = UNSET",
        "description: Description | None | UnsetType = None",
        "items/test_item_patch.py",
    ),
    Guard(
        "yield, not return: the session commits after the handler, before the reply",
        "db.py",
        "return self._orm_sessions.begin()",
        "return self._orm_sessions()",
        "resources/test_resources.py",
    ),
    Guard(
        "validation by extension: the bytes have to be what the type says",
        "documents/png.py",
        "require((yield len(SIGNATURE)) == SIGNATURE,",
        "require((yield len(SIGNATURE)),",
        "documents/test_forms.py",
    ),
    Guard(
        "CPU in the background: what burns a core does so in another process",
        "jobs/task.py",
        "            return await to_process.run_sync(\n",
        "            return function(*arguments)\n            await to_process.run_sync(\n",
        "test_worker.py",
    ),
    Guard(
        "silent failures: a job that fails says so in its status and in the log",
        "jobs/runner.py",
        'task.log.error("job failed", exc_info=error)',
        "pass",
        "jobs/test_runner.py",
    ),
    Guard(
        "shallow health: it says what it found, not that all is well",
        "health.py",
        'return Dependencies("unreachable", storage, "unreachable")',
        'return Dependencies("connected", storage, "connected")',
        "test_health.py",
    ),
    Guard(
        "header leakage: every error has its code in a header too",
        "errors.py",
        '        "X-Error-Code": fault.code,\n',
        "",
        "http/test_errors.py",
    ),
    Guard(
        "a 2xx means committed",
        "orders/placement.py",
        "            await booking.write(connection)",
        "            for ticket, outcome in outcomes.items():\n                ticket.resolve(outcome)\n"
        "            await booking.write(connection)",
        "orders/test_placement.py orders/test_kill.py",
    ),
    Guard(
        "a POST with a key is safe to repeat",
        "orders/placement.py",
        "fresh = [ticket for ticket in batch if ticket.claim not in answered]",
        "fresh = list(batch)",
        "http/test_idempotency.py",
    ),
    Guard(
        "stock is never oversold",
        "orders/allocation.py",
        "if stock.quantity < quantity",
        "if False",
        "orders/test_placement.py",
    ),
    Guard(
        "nobody else sells an item between the look at its stock and the commit",
        "orders/statements.py",
        "order by id for no key update of items",
        "order by id",
        "orders/test_placement.py",
    ),
    Guard(
        "an item that somebody holds for long keeps nobody else's orders waiting",
        "orders/placement.py",
        "*names(batch), self._lock_timeout",
        '*names(batch), "0"',
        "orders/test_placement.py",
    ),
    Guard(
        "a superseded worker leaves the queue's entry to the one that took over",
        "jobs/puller.py",
        "return OwnQueries(",
        "return Queries(",
        "jobs/test_runner.py",
    ),
    Guard(
        "stock is the sum of its movements",
        "orders/statements.py",
        "select item_id, version, 'order', -quantity, remaining",
        "select item_id, version, 'order', -1, remaining",
        "orders/test_placement.py",
    ),
    Guard(
        "an event is delivered though its process died",
        "webhooks/courier.py",
        "        if polling:",
        "        if not polling:",
        "webhooks/test_processes.py",
    ),
    Guard(
        "503 within a second of the database's silence",
        "pulse.py",
        "        self._on_down()\n",
        "",
        "test_pulse.py",
    ),
    Guard(
        "overload: what is too much is refused",
        "http/admission.py",
        "return len(self._in_flight) + self.arriving >= self.limit",
        "return False",
        "http/test_admission.py",
    ),
    Guard(
        "overload: health is never refused",
        "http/envelope.py",
        'NEVER_REFUSED = ("/health", "/metrics")',
        'NEVER_REFUSED = ("/metrics",)',
        "http/test_admission.py",
    ),
    Guard(
        "SIGTERM: not ready at once, served on",
        "server.py",
        "        self._probe.draining = True",
        "        pass",
        "test_server.py",
    ),
]


def main() -> int:
    unnoticed = 0
    with (
        TemporaryDirectory(prefix="depot-guards-") as folder,
        postgres(Path(folder) / "server", FAST_OPTIONS) as url,
    ):
        Path(folder).chmod(0o755)
        for guard in GUARDS:
            with without(guard, Path(folder) / "tree") as tree:
                noticed = not passes(tree, guard.tests, url)
            print("red  " if noticed else "GREEN", guard.promise, flush=True)
            unnoticed += not noticed
    print(f"{len(GUARDS) - unnoticed} of {len(GUARDS)} are noticed")
    return 1 if unnoticed else 0


@contextmanager
def without(guard: Guard, tree: Path) -> Iterator[Path]:
    """A copy of the project that lacks it."""
    for part in ("src", "tests", "migrations"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    path = tree / "src" / "service" / guard.module
    source = path.read_text()
    if guard.code not in source:
        sys.exit(f"{guard.module} has changed, and this list has not: {guard.code}")
    path.write_text(source.replace(guard.code, guard.broken))
    yield tree
    shutil.rmtree(tree)


def passes(tree: Path, tests: str, database_url: str) -> bool:
    files = [f"tests/{name}" for name in tests.split()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TEST_DATABASE_URL": database_url,
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    return (
        subprocess.run(command, cwd=tree, env=environment, capture_output=True, check=False).returncode == 0
    )


if __name__ == "__main__":
    sys.exit(main())
