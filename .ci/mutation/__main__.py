"""`make mutation`: change the modules that keep the promises, piece by piece, and expect tests to fail.

cosmic-ray makes the mutants, those of a module in a copy of the tree, for a few modules at the same time. The
mutants that survive are printed as diffs. docs/mutation-testing.md has the last score and explains each
survivor.
"""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from tempfile import TemporaryDirectory
from typing import NamedTuple

from service.database import migrate
from service.database.embedded import postgres
from service.settings import Settings
from service.testing import FAST_OPTIONS, database_url_for, execute, scratch_directory

ROOT = Path(__file__).parents[2]
TESTS = {
    "orders/allocation": "tests/orders/test_allocation.py tests/orders/test_orders.py",
    "orders/placement": "tests/orders/test_placement.py tests/orders/test_placement_failures.py "
    "tests/orders/test_deferred.py tests/health/test_metrics_endpoint.py",
    "orders/deferred": "tests/orders/test_deferred.py",
    "http/merge": "tests/http/test_merge.py",
    "items/catalog": "tests/items/test_item_patch.py tests/items/test_stock.py tests/items/test_items.py "
    "tests/http/test_idempotency.py tests/http/test_conditions.py",
    "http/idempotency": "tests/http/test_idempotency.py",
    "idempotency/replies": "tests/http/test_idempotency.py tests/webhooks/test_webhooks.py",
    "events/journal": "tests/events/test_journal.py",
    "webhooks/dispatcher": "tests/webhooks/test_dispatcher.py tests/webhooks/test_attempt.py "
    "tests/webhooks/test_processes.py tests/health/test_metrics_endpoint.py",
    "webhooks/deliveries": "tests/webhooks/test_deliveries.py tests/webhooks/test_resend.py "
    "tests/webhooks/test_webhooks.py",
    "errors": "tests/test_error_codes.py tests/http/test_errors.py",
}
AT_ONCE = os.cpu_count() or 1
TEMPLATE = "depot_template"
CONFIGURATION = """
[cosmic-ray]
module-path = "src/service/{module}.py"
timeout = 150.0
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = [
  "core/ReplaceBinaryOperator_(BitOr|Mul|Pow)_.*", # unions of types, and the `*` and `**` of calls
  "core/ReplaceBinaryOperator_.*_(BitAnd|BitOr|BitXor|LShift|RShift|Mod|Pow|FloorDiv|Mul)",
  "core/RemoveDecorator",                          # what remains does not even import
]
"""
OUTCOMES = """
select w.test_outcome = 'SURVIVED', w.diff from work_results w
where w.worker_outcome = 'NORMAL' and w.test_outcome in ('SURVIVED', 'KILLED')"""


class Score(NamedTuple):
    module: str
    killed: int
    survivors: list[str]
    """One diff for each surviving mutant."""


def main() -> int:
    options = argparse.ArgumentParser(prog="make mutation", description=__doc__)
    options.add_argument("modules", nargs="*", default=list(TESTS), metavar="MODULE", help=" ".join(TESTS))
    options.add_argument("--cosmic-ray", type=Path, required=True, help="the bin directory it is in")
    given = options.parse_args()
    tools = given.cosmic_ray.absolute()
    with TemporaryDirectory(prefix="depot-mutation-", dir=scratch_directory()) as folder:
        home = Path(folder)
        home.chmod(0o755)
        with postgres(home, FAST_OPTIONS) as url, ThreadPoolExecutor(AT_ONCE) as pool:
            execute(url, f"create database {TEMPLATE}")
            migrate.upgrade(Settings(database_url=database_url_for(url, TEMPLATE)))
            scores = list(pool.map(lambda module: scored(module, home, url, tools), given.modules))
    killed, survived = sum(score.killed for score in scores), sum(len(score.survivors) for score in scores)
    print(f"all: {killed} of {killed + survived} killed, {killed / (killed + survived):.1%}")
    return 0


def scored(module: str, home: Path, database_url: str, tools: Path) -> Score:
    tree = home / module.replace("/", "-")
    for part in ("src", "tests", "migrations", "bench", "deploy", "docs"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("results", "__pycache__"))
    for part in ("pyproject.toml", "README.md", "Makefile"):
        shutil.copy(ROOT / part, tree)
    said = CONFIGURATION.format(module=module, python=sys.executable, tests=TESTS[module])
    (tree / "mutation.toml").write_text(said)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",  # or a mutant of the same second and size would be an old one's bytes
        "TEST_DATABASE_URL": database_url,
        "TEST_DATABASE_TEMPLATE": TEMPLATE,
    }
    for command in (
        "cosmic-ray init mutation.toml session",
        "cr-filter-operators session mutation.toml",
        "cosmic-ray baseline mutation.toml",
        "cosmic-ray exec mutation.toml session",
    ):
        program, *arguments = command.split()
        subprocess.run([tools / program, *arguments], cwd=tree, env=environment, check=True)
    with closing(connect(tree / "session")) as session:
        outcomes = session.execute(OUTCOMES).fetchall()
    survivors = [diff for survived, diff in outcomes if survived]
    score = Score(module, len(outcomes) - len(survivors), survivors)
    print(f"{module}: {score.killed} killed, {len(survivors)} survived", *survivors, sep="\n", flush=True)
    return score


if __name__ == "__main__":
    sys.exit(main())
