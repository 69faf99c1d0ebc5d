"""`depot serve` as a process."""

import signal
from pathlib import Path

import httpx

from live import live


def test_it_serves_until_sigterm_and_exits_with_success(database_url: str, tmp_path: Path) -> None:
    with live(database_url, tmp_path / "home", DEPOT_DRAIN_SECONDS="0") as server:
        assert httpx.get(f"{server.url}/health/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=5) == 0
