"""Generate clients from the OpenAPI document and run a scenario with each (`make clients`)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.support.depot_command import DEPOT
from tests.support.depot_process import DepotProcess, depot_serve

ROOT = Path(__file__).parent.parent
API = ROOT / ".ci" / "api"
NODE = API / "node_modules"
PYTHON = ROOT / ".venv-clients" / "bin"


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPOT_")}
    path.write_bytes(subprocess.check_output([DEPOT, "openapi"], env=environment))
    return path


@pytest.mark.skipif(not PYTHON.exists(), reason="the generator is not installed; run `make clients`")
async def test_a_client_in_python_is_generated_and_works(
    database_url: str, key: str, tmp_path: Path, document: Path
) -> None:
    generated = tmp_path / "generated"
    generate = [PYTHON / "openapi-python-client", "generate", "--path", document, "--meta", "none"]
    run(*generate, "--output-path", generated / "depot_client")
    with depot_serve(database_url, tmp_path / "home") as server:
        run(
            PYTHON / "python",
            API / "story.py",
            PYTHONPATH=str(generated),
            **client_environment(server, key, database_url, tmp_path),
        )


@pytest.mark.skipif(not NODE.exists(), reason="the generator is not installed; run `make clients`")
async def test_a_client_in_typescript_is_generated_compiled_strictly_and_works(
    database_url: str, key: str, tmp_path: Path, document: Path
) -> None:
    for name in ("story.ts", "tsconfig.json", "package.json"):
        shutil.copy(API / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE)
    tools = NODE / ".bin"
    generate = [tools / "openapi-typescript", document, "--default-non-nullable=false"]
    run(*generate, "-o", tmp_path / "schema.d.ts")
    run(tools / "tsc", "-p", tmp_path)
    with depot_serve(database_url, tmp_path / "home") as server:
        run("node", tmp_path / "story.js", **client_environment(server, key, database_url, tmp_path))


def client_environment(server: DepotProcess, key: str, database_url: str, folder: Path) -> dict[str, str]:
    cat = folder / "cat.png"
    Image.new("RGB", (64, 48)).save(cat)
    story = {"STORY_URL": server.url, "STORY_KEY": key, "STORY_PICTURE": str(cat), "STORY_DEPOT": str(DEPOT)}
    return {**story, "DATABASE_URL": database_url}


def run(*command: str | Path, **environment: str) -> None:
    result = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
