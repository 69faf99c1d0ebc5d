"""What users of `service.testing` write: the README's files, run by a pytest of their own."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from service.testing import scratch_directory

README = Path(__file__).parents[1] / "README.md"
ASYNC = """
import pytest
from msgspec.structs import replace
from service.testing import mint

@pytest.fixture
def depot_settings(depot_settings):
    return replace(depot_settings, document_bytes_max=1000)

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_setting_is_changed_and_a_job_runs(async_depot, depot_settings):
    reader = {"Authorization": f"Bearer {await mint(depot_settings, 'items:read')}"}
    assert (await async_depot.post("/items", headers=reader, json={})).status_code == 403
    large = await async_depot.post("/documents", files={"file": ("a.png", b"x" * 2000, "image/png")})
    assert large.status_code == 413
    job = await async_depot.post("/process", json={"kind": "system.sleep", "payload": {"seconds": 0}})
    async with async_depot.stream("GET", f"{job.headers['Location']}/events") as events:
        assert '"succeeded"' in (await events.aread()).decode()
"""


FOR_ASYNCIO = """
import pytest

@pytest.mark.asyncio
async def test_a_coroutine_of_pytest_asyncio_has_a_client(async_depot):
    assert (await async_depot.get("/items")).json()["data"] == []
"""
WHERE = """
from pathlib import Path

def test_where_the_server_is(depot_server, pytestconfig):
    Path(__file__).with_name("run").write_text(pytestconfig.option.testrunuid)
"""


def run_pytest(folder: Path, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, **environment}
    completed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return completed.stdout + completed.stderr


def test_the_files_of_the_readme_pass(tmp_path: Path, server_url: str) -> None:
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README.read_text(), re.DOTALL)
    assert [name for name, _ in files] == ["conftest.py", "test_stock.py"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    printed = run_pytest(tmp_path, "-W", "error", "-p", "no:asyncio", TEST_DATABASE_URL=server_url)
    assert "1 passed" in printed, printed


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["service.testing"]')
    return tmp_path


def test_settings_rights_and_jobs_are_there_for_coroutines(suite: Path, server_url: str) -> None:
    (suite / "test_async.py").write_text(ASYNC)
    assert "1 passed" in run_pytest(suite, TEST_DATABASE_URL=server_url)


@pytest.mark.skipif(find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed")
@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_coroutines_of_pytest_asyncio_have_a_client(suite: Path, server_url: str, mode: str) -> None:
    (suite / "test_asyncio.py").write_text(FOR_ASYNCIO)
    options = ["-W", "error", "--asyncio-mode", mode, "-o", "asyncio_default_fixture_loop_scope=function"]
    printed = run_pytest(suite, *options, TEST_DATABASE_URL=server_url)
    assert "1 passed" in printed, printed


def test_a_run_deletes_the_directory_of_its_server(suite: Path) -> None:
    (suite / "test_where.py").write_text(WHERE)
    without_server = {"TEST_DATABASE_URL": "", "PYTEST_XDIST_WORKER": "", "PYTEST_XDIST_TESTRUNUID": ""}
    assert "1 passed" in run_pytest(suite, "-n", "1", **without_server)
    run = (suite / "run").read_text()
    assert not (scratch_directory() / f"depot-tests-{run}").exists()
