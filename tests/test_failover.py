"""The primary is lost, a standby promoted: the service goes on by itself, nothing acknowledged is lost."""

import asyncio
from pathlib import Path

import pytest

from conftest import execute
from nodes import Node, node, standby
from outage_proof import prove_outage

BEFORE_SECONDS = 1.5
SECONDS = 2.0


@pytest.mark.parametrize("strike", [Node.kill, Node.suspend], ids=["killed", "silent"])
async def test_writes_go_on_when_a_standby_is_promoted(home: Path, tmp_path: Path, strike: object) -> None:
    with node(home) as primary, standby(home, primary) as copy:
        await asyncio.to_thread(synchronize, primary)
        servers = f"127.0.0.1:{primary.port},127.0.0.1:{copy.port}"
        verdict = await prove_outage(
            f"postgresql://postgres@{servers}/postgres?target_session_attrs=read-write",
            tmp_path / "depot",
            strike=lambda: strike(primary),
            mend=copy.promote,
            before_seconds=BEFORE_SECONDS,
            seconds=SECONDS,
            judged_url=copy.url,
        )
    print(verdict)
    assert verdict.wrong == []
    assert verdict.failed == 0


def synchronize(primary: Node) -> None:
    """From now on a commit is acknowledged once the standby has it."""
    execute(primary.url, "alter system set synchronous_standby_names = '*'")
    execute(primary.url, "select pg_reload_conf()")
