"""The database goes away under load on every kind of route. `make outage` is the long form."""

from pathlib import Path

import pytest

from tests.support.outage_scenarios import OUTAGES

SECONDS = 3.0


@pytest.mark.parametrize("outage", OUTAGES)
async def test_without_the_database_requests_are_rejected_immediately_until_it_is_back(
    home: Path, tmp_path: Path, outage: str
) -> None:
    verdict = await OUTAGES[outage](home, tmp_path / "depot", SECONDS)
    assert verdict.wrong == []
    assert verdict.failed == 0
