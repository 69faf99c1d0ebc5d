"""Nothing is lost and nothing happens twice, whatever is killed. `make chaos` is the long form."""

from pathlib import Path

from tests.support.chaos_events import prove_events
from tests.support.chaos_jobs import prove_jobs

SEED = 3


async def test_every_acknowledged_change_is_delivered_although_processes_are_killed(
    database_url: str, key: str, tmp_path: Path
) -> None:
    verdict = await prove_events(database_url, tmp_path / "home", key, rounds=4, a_round=250, seed=SEED)
    assert verdict.wrong == []
    assert verdict.acknowledged == 1000
    assert verdict.kills == 8


async def test_every_job_ends_exactly_once_though_processes_are_killed(
    database_url: str, key: str, tmp_path: Path
) -> None:
    verdict = await prove_jobs(database_url, tmp_path / "home", key, jobs=60, kills=4, seed=SEED)
    assert verdict.wrong == []
    assert (verdict.jobs, verdict.timed_out) == (60, 0)
    assert verdict.kills == 4
