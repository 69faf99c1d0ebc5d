"""The database goes away in three ways under load on every kind of route. `make outage` is the long form."""

from pathlib import Path

import pytest

from nodes import Node, node
from outage_proof import prove_outage

BEFORE_SECONDS = 1.5
SECONDS = 3.0

TROUBLES = {"silent": (Node.suspend, Node.resume), "killed": (Node.kill, Node.start)}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_without_its_database_the_service_refuses_at_once_and_works_again_when_it_is_back(
    home: Path, tmp_path: Path, trouble: str
) -> None:
    strike, mend = TROUBLES[trouble]
    with node(home) as database:
        verdict = await prove_outage(
            database.url,
            tmp_path / "depot",
            strike=lambda: strike(database),
            mend=lambda: mend(database),
            before_seconds=BEFORE_SECONDS,
            seconds=SECONDS,
            judged_url=database.url,
        )
    print(verdict)
    assert verdict.wrong == []
    assert verdict.failed == 0
