"""`make guards`: remove what keeps each promise, one at a time, and expect a test to fail.

The first promises answer the pitfalls of the article that Depot rebuilds, the others are those of its
contract under fault. Exits with 1 if a removal goes unnoticed. docs/mutation-testing.md has the table.
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


class Safeguard(NamedTuple):
    promise: str
    module: str
    code: str
    broken: str
    tests: str

    def outdated(self) -> str | None:
        """Return how the project has changed and this list has not, or None."""
        if (ROOT / "src" / "service" / self.module).read_text().count(self.code) != 1:
            return f"{self.module} does not have this exactly once: {self.code}"
        missing = [name for name in self.tests.split() if not (ROOT / "tests" / name).exists()]
        return f"there are no tests {', '.join(missing)}" if missing else None


SAFEGUARDS = [
    Safeguard(
        "null overwrite: a PATCH keeps the values of omitted fields",
        "items/schemas.py",
        "description: Description | None | UnsetType = UNSET",
        "description: Description | None | UnsetType = None",
        "items/test_item_patch.py",
    ),
    Safeguard(
        "yield, not return: the session commits after the handler and before the reply",
        "database/database.py",
        "return self._orm_sessions.begin()",
        "return self._orm_sessions()",
        "resources/test_resources.py",
    ),
    Safeguard(
        "validation by extension: the bytes must be what the type says",
        "documents/formats.py",
        "        self.structure(data)\n",
        "",
        "documents/test_formats.py documents/test_upload.py",
    ),
    Safeguard(
        "CPU in the background: a job that burns a core does so in another process",
        "jobs/context.py",
        "                return await to_process.run_sync(\n",
        "                return function(*arguments)\n                await to_process.run_sync(\n",
        "server/test_worker.py",
    ),
    Safeguard(
        "silent failures: a job that fails says so in its status and in the log",
        "jobs/runner.py",
        'context.log.error("job_failed", exc_info=error)',
        "pass",
        "jobs/test_runner.py",
    ),
    Safeguard(
        "shallow health: it reports what it found",
        "health/controller.py",
        'return Dependencies("unreachable", storage, "unreachable")',
        'return Dependencies("connected", storage, "connected")',
        "health/test_health.py",
    ),
    Safeguard(
        "header leakage: every error has its code in a header too",
        "errors.py",
        '        "X-Error-Code": fault.code,\n',
        "",
        "http/test_errors.py",
    ),
    Safeguard(
        "a 2xx means committed",
        "orders/placement.py",
        "            await placed.write(session)\n",
        "            return [outcomes[pending] for pending in batch]\n",
        "orders/test_placement.py orders/test_kill.py",
    ),
    Safeguard(
        "a POST with an idempotency key is safe to repeat",
        "orders/placement.py",
        "fresh = [pending for pending in batch if pending.claim not in replayed]",
        "fresh = list(batch)",
        "http/test_idempotency.py",
    ),
    Safeguard(
        "stock is never oversold",
        "orders/allocation.py",
        "if entry.quantity < quantity",
        "if False",
        "orders/test_placement.py",
    ),
    Safeguard(
        "no other transaction sells an item between the check of its stock and the commit",
        "orders/statements.py",
        "order by id for no key update of items",
        "order by id",
        "orders/test_placement.py",
    ),
    Safeguard(
        "an item that is locked for long delays no order of other items",
        "orders/placement.py",
        "*item_references(batch), self._lock_timeout",
        '*item_references(batch), "0"',
        "orders/test_deferred.py",
    ),
    Safeguard(
        "a request that breaks its batch fails alone",
        "database/batch.py",
        "if len(batch) == 1 or isinstance(error, SHARED_ERRORS):",
        "if True:",
        "database/test_batch.py",
    ),
    Safeguard(
        "two changes of one row never share a batch",
        "database/batch.py",
        "if key is not None and key in keys:",
        "if False:",
        "database/test_batch.py",
    ),
    Safeguard(
        "a read sees what was committed before it arrived",
        "database/batch.py",
        "            _resolve(list(zip(batch, outcomes, strict=True)))",
        "            results = {repr(member.request): outcome for member, outcome in zip(batch, outcomes)}\n"
        "            for member in [*batch, *self._queue]:\n"
        "                if repr(member.request) in results:\n"
        "                    member.resolve(results[repr(member.request)])",
        "database/test_batch.py",
    ),
    Safeguard(
        "a caller that is cancelled changes nothing for the others of its batch",
        "database/batch.py",
        "            return  # the caller was cancelled",
        "            pass",
        "database/test_batch.py",
    ),
    Safeguard(
        "a shutdown answers every request in a batch",
        "database/batch.py",
        "        while self._running:",
        "        while False:",
        "database/test_batch.py",
    ),
    Safeguard(
        "a batch waits for no timer",
        "database/batch.py",
        "            while batch := self._take():",
        "            await asyncio.sleep(0.001)\n            while batch := self._take():",
        "database/test_batch.py",
    ),
    Safeguard(
        "forged history is not sealed",
        "audit/sealing_state.py",
        "hmac.compare_digest(mac, expected)",
        "mac",
        "audit/test_verify.py",
    ),
    Safeguard(
        "a prune deletes only what the exported file holds",
        "audit/prune.py",
        "if next(lines, None) != encode_line(entry):",
        "if False:",
        "audit/test_prune_refusals.py",
    ),
    Safeguard(
        "no cursor skips pruned events silently",
        "audit/feed.py",
        "if begin < pruned_id:",
        "if False:",
        "audit/test_pruned_events.py",
    ),
    Safeguard(
        "the best-selling items are net of cancellations",
        "reports/statements.py",
        "then 1 else -1 end",
        "then 1 else 0 end",
        "reports/test_financial.py",
    ),
    Safeguard(
        "a superseded worker leaves the queue entry to the one that took over",
        "jobs/pgqueuer_adapter.py",
        "return OwnedEntryQueries(",
        "return Queries(",
        "jobs/test_runner.py",
    ),
    Safeguard(
        "stock is the sum of its movements",
        "orders/statements.py",
        "select item_id, version, 'order', -quantity, remaining",
        "select item_id, version, 'order', -1, remaining",
        "orders/test_orders.py",
    ),
    Safeguard(
        "an event is delivered although its process died",
        "webhooks/dispatcher.py",
        "        if not was_woken:",
        "        if was_woken:",
        "webhooks/test_processes.py",
    ),
    Safeguard(
        "503 within a second of the database's silence",
        "database/monitor.py",
        "        self._on_down()\n",
        "",
        "database/test_monitor.py",
    ),
    Safeguard(
        "overload: excess requests are rejected",
        "http/admission.py",
        "return len(self._in_flight) + self.pending >= self.limit",
        "return False",
        "http/test_admission.py",
    ),
    Safeguard(
        "overload: health is never shed",
        "http/middleware.py",
        'SHEDDING_EXEMPT_PATHS = ("/health", "/metrics")',
        'SHEDDING_EXEMPT_PATHS = ("/metrics",)',
        "http/test_admission.py",
    ),
    Safeguard(
        "SIGTERM: not ready immediately, and requests are served",
        "server/processes.py",
        "        self._probe.draining = True",
        "        pass",
        "server/test_server.py",
    ),
]


def main() -> int:
    if outdated := [problem for safeguard in SAFEGUARDS if (problem := safeguard.outdated())]:
        sys.exit("\n".join(outdated))
    unnoticed = 0
    with (
        TemporaryDirectory(prefix="depot-guards-") as folder,
        postgres(Path(folder) / "server", FAST_OPTIONS) as url,
    ):
        Path(folder).chmod(0o755)
        for safeguard in SAFEGUARDS:
            with without(safeguard, Path(folder) / "tree") as tree:
                noticed = not passes(tree, safeguard.tests, url)
            print("red  " if noticed else "GREEN", safeguard.promise, flush=True)
            unnoticed += not noticed
    print(f"{len(SAFEGUARDS) - unnoticed} of {len(SAFEGUARDS)} are noticed")
    return 1 if unnoticed else 0


@contextmanager
def without(safeguard: Safeguard, tree: Path) -> Iterator[Path]:
    """Yield a copy of the project that lacks the safeguard."""
    for part in ("src", "tests", "migrations"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    path = tree / "src" / "service" / safeguard.module
    path.write_text(path.read_text().replace(safeguard.code, safeguard.broken))
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
    ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode not in {0, 1}:  # neither passed nor failed, such as an import that is missing
        sys.exit(ended.stdout + ended.stderr)
    return ended.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
