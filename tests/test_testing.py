"""What users of `service.testing` write: the files of the docs, run by a pytest of their own."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from service.testing import scratch_directory
from service.testing.inbox import Inbox
from service.webhooks.signing import new_secret, signed_headers
from tests.support.app_helpers import connected
from tests.support.depot_command import NEW_INTERPRETER, PYTEST, forked_interpreter, run_depot

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "testing.md"]
FILE = re.compile(r"```python\n# (\w+\.py)\n(.*?)```", re.DOTALL)
WHERE = """
from pathlib import Path

def test_where_the_server_is(depot_server, pytestconfig):
    Path(__file__).with_name("run").write_text(pytestconfig.option.testrunuid)
"""

WHICH_TEMPLATE = """
from pathlib import Path

def test_which_template_there_is(depot_template):
    Path(__file__).with_name("name").write_text(depot_template)
"""

RunPytest = Callable[..., str]


@pytest.fixture
def files(tmp_path: Path) -> set[str]:
    """Write the files of the docs to the directory of the test. Return their names."""
    found = [file for page in PAGES for file in FILE.findall(page.read_text())]
    for name, text in found:
        (tmp_path / name).write_text(text)
    return {name for name, _ in found}


@pytest.fixture
def run_pytest(tmp_path: Path, server_url: str, depot_template: str) -> RunPytest:
    """Return a function that runs pytest on files of the test's directory and returns what it prints."""

    def run(*arguments: str, **environment: str) -> str:
        databases = {"TEST_DATABASE_URL": server_url, "TEST_DATABASE_TEMPLATE": depot_template}
        options = ["-q", "-p", "no:cacheprovider", "--disable-plugin-autoload", "--rootdir", str(tmp_path)]
        paths = [str(tmp_path / word) if word.endswith(".py") else word for word in arguments]
        completed = run_depot(
            [*options, *paths], env={**os.environ, **databases, **environment}, script=PYTEST
        )
        return completed.stdout + completed.stderr

    return run


def test_the_functions_and_coroutines_of_the_docs_pass(files: set[str], run_pytest: RunPytest) -> None:
    assert files == {"conftest.py", "test_stock.py", "test_shop.py", "test_anyio.py", "test_asyncio.py"}
    tests = ["test_stock.py", "test_shop.py", "test_anyio.py"]
    # A forked process would not show that an import warns.
    printed = run_pytest("-W", "error", "-p", "anyio", *tests, **NEW_INTERPRETER)
    assert "6 passed" in printed, printed


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_coroutines_of_pytest_asyncio_pass(files: set[str], run_pytest: RunPytest, mode: str) -> None:
    options = ["--asyncio-mode", mode, "-o", "asyncio_default_fixture_loop_scope=function"]
    printed = run_pytest("-W", "error", "-p", "pytest_asyncio.plugin", *options, "test_asyncio.py")
    assert "1 passed" in printed, printed


def test_a_run_deletes_the_directory_of_its_server(tmp_path: Path, run_pytest: RunPytest) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["service.testing"]')
    (tmp_path / "test_where.py").write_text(WHERE)
    without_server = {"TEST_DATABASE_URL": "", "PYTEST_XDIST_WORKER": "", "PYTEST_XDIST_TESTRUNUID": ""}
    worker = f"popen//python={forked_interpreter() or sys.executable}"
    printed = run_pytest("-p", "xdist", "--dist=load", "--tx", worker, "test_where.py", **without_server)
    assert "1 passed" in printed, printed
    run = (tmp_path / "run").read_text()
    assert not (scratch_directory() / f"depot-tests-{run}").exists()


async def test_a_run_on_another_server_drops_its_template(
    tmp_path: Path, run_pytest: RunPytest, server_url: str
) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["service.testing"]')
    (tmp_path / "test_template.py").write_text(WHICH_TEMPLATE)
    run = ["-p", "xdist", "--testrunuid", f"build-42 of {uuid4()}", "test_template.py"]
    printed = run_pytest(*run, TEST_DATABASE_TEMPLATE="")
    assert "1 passed" in printed, printed
    async with connected(server_url) as connection:
        name = (tmp_path / "name").read_text()
        assert not await connection.fetchval("select count(*) from pg_database where datname = $1", name)


def test_a_server_without_a_template_is_the_only_error(
    tmp_path: Path, run_pytest: RunPytest, server_url: str
) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["service.testing"]')
    (tmp_path / "test_template.py").write_text(WHICH_TEMPLATE)
    url = f"{server_url}{'&' if '?' in server_url else '?'}default_transaction_read_only=on"
    databases = {"TEST_DATABASE_URL": url, "TEST_DATABASE_TEMPLATE": ""}
    printed = run_pytest("test_template.py", **databases, PYTEST_XDIST_TESTRUNUID=uuid4().hex)
    assert printed.rstrip().splitlines()[-1].startswith("1 error in"), printed
    assert "cannot execute CREATE DATABASE in a read-only transaction" in printed


def signed(secret: str, event_type: str) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a delivery."""
    body = json.dumps({"type": event_type, "timestamp": "2026-11-28T00:00:00Z", "data": {}}).encode()
    return signed_headers([secret], "one", 1, body), body


async def test_the_inbox_rejects_a_wrong_signature_and_counts_a_repetition_once(depot_inbox: Inbox) -> None:
    secrets = {new_secret(): 401, depot_inbox.secret: 204}
    async with httpx.AsyncClient() as client:
        for secret, status in [*secrets.items(), *secrets.items()]:
            headers, body = signed(secret, "order.placed")
            reply = await client.post(depot_inbox.url, content=body, headers=headers)
            assert reply.status_code == status
    assert [event["type"] for event in depot_inbox.events] == ["order.placed"]


async def test_the_inbox_names_the_events_that_came_instead(depot_inbox: Inbox) -> None:
    depot_inbox.deliver(*signed(depot_inbox.secret, "item.created"))
    with pytest.raises(TimeoutError, match=r"no order.placed arrived within 0.01 s; .*: item.created"):
        await depot_inbox.wait_for("order.placed", timeout_seconds=0.01)
