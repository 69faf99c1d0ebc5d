"""What users of `service.testing` write: the README's files, run by a pytest of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

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


def ran(folder: Path, server_url: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TEST_DATABASE_URL": server_url}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_the_files_of_the_readme_pass(tmp_path: Path, server_url: str) -> None:
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README.read_text(), re.DOTALL)
    assert [name for name, _ in files] == ["conftest.py", "test_stock.py"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    assert "1 passed" in ran(tmp_path, server_url)


def test_settings_rights_and_jobs_are_there_for_coroutines(tmp_path: Path, server_url: str) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["service.testing"]')
    (tmp_path / "test_async.py").write_text(ASYNC)
    assert "1 passed" in ran(tmp_path, server_url)
