"""Test the service against its OpenAPI document with schemathesis.

In the suite the run is bounded and deterministic; `make fuzz` runs for `SECONDS`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio

from tests.support.depot_process import depot_serve, depot_worker

HERE = Path(__file__).parent
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
SECONDS = os.environ.get("FUZZ_SECONDS")
BOUNDED = [
    *("--generation-deterministic", "--max-examples", "5"),
    *("--phases", "examples,coverage,stateful"),
]
LONG = [
    *("--max-time", str(SECONDS), "--max-examples", "200"),
    *("--phases", "examples,coverage,fuzzing,stateful"),
]


async def test_every_reply_agrees_with_the_document(database_url: str, key: str, tmp_path: Path) -> None:
    settings = {"DEPOT_WEBHOOK_ALLOW_PRIVATE": "0", "DEPOT_WEBHOOKS_MAX": "1000000"}
    with (
        depot_serve(database_url, tmp_path / "home", **settings) as server,
        depot_worker(database_url, tmp_path / "home", **settings) as worker,
    ):
        output = await run_schemathesis(server.url, key, tmp_path / "report.json")
        crashes = [*server.events("unhandled_error"), *worker.events("unhandled_error")]
    report = json.loads((tmp_path / "report.json").read_text())
    print(output)  # `make fuzz` shows it
    assert not report["failures"] and not report["errors"], output
    assert report["operations"]["total"] > 40
    assert report["operations"]["tested"] == report["operations"]["total"]
    assert crashes == []


async def run_schemathesis(url: str, key: str, report: Path) -> str:
    """Run schemathesis and return its output."""
    path = os.pathsep.join(str(HERE.parent / folder) for folder in ("..", "", "http", "documents"))
    result = await anyio.run_process(
        [
            *(
                str(SCHEMATHESIS),
                "--no-color",
                "--config-file",
                str(HERE / "fuzz.toml"),
                "run",
                f"{url}/openapi.json",
            ),
            *("--header", f"Authorization: Bearer {key}", *(LONG if SECONDS else BOUNDED)),
            *("--report", "json", "--report-json-path", str(report)),
        ],
        env={**os.environ, "PYTHONPATH": path, "SCHEMATHESIS_HOOKS": "fuzz_hooks"},
        cwd=report.parent,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return result.stdout.decode()
