"""A rolling restart behind a load balancer loses no request; `make rolling` is the long form."""

from pathlib import Path

from tests.support.requirements import requires
from tests.support.rolling_restart import balanced, prove_rolling


@requires("haproxy")
async def test_a_rolling_restart_fails_no_request(database_url: str, tmp_path: Path, key: str) -> None:
    with balanced(database_url, tmp_path / "home") as (url, replicas):
        verdict = await prove_rolling(url, replicas, key, rounds=1, rate=60)
    assert verdict.failed == []
    assert verdict.restarts == 2
    assert verdict.sent > 100
