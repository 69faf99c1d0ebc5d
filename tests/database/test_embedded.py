"""The embedded PostgreSQL starts for every user of a machine, in every directory, and changes no other."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from service.database import embedded
from service.database.embedded import postgres
from tests.support.requirements import requires_root

NOBODY = 65534
START = """
import sys
from pathlib import Path
from service.database.embedded import postgres
with postgres(Path(sys.argv[1]), {"fsync": "off"}) as url:
    print(url)
"""


def answer(home: Path) -> int:
    """Start a server and return the result of a query."""

    async def ask(url: str) -> int:
        connection = await asyncpg.connect(url)
        try:
            return int(await connection.fetchval("select 42"))
        finally:
            await connection.close()

    with postgres(home, {"fsync": "off"}) as url:
        return asyncio.run(ask(url))


@pytest.mark.parametrize("name", ["Ann's shop & 100% more", 'a "$HOME", b', "long" * 30])
def test_a_directory_may_have_any_name(home: Path, name: str) -> None:
    (home / name).mkdir()
    assert answer(home / name) == 42


def test_the_programs_may_be_in_a_directory_with_any_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = embedded.copy_programs(embedded._programs(), home / 'a "$HOME"')
    monkeypatch.setattr(embedded, "_programs", lambda: programs)
    assert answer(home) == 42


def test_the_data_of_an_interrupted_start_is_created_again(home: Path) -> None:
    unfinished = home / "postgres.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    assert answer(home) == 42
    assert not unfinished.exists()


def test_a_pid_file_that_names_another_process_does_not_stop_the_start(home: Path) -> None:
    assert answer(home) == 42
    lines = [str(os.getpid()), str(home / "postgres"), "1", "5432", str(home / "postgres"), "", "", "ready"]
    (home / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    assert answer(home) == 42


@requires_root
def test_as_root_no_directory_is_opened_to_others(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    (closed / "depot").mkdir(mode=0o700)
    assert answer(closed / "depot") == 42
    assert [stat.S_IMODE(path.stat().st_mode) for path in (closed, closed / "depot")] == [0o700, 0o700]


@requires_root
def test_another_user_starts_a_server_after_root_did(home: Path) -> None:
    home.chmod(0o755)
    for name in ("root", "other"):
        (home / name).mkdir()
    assert answer(home / "root") == 42
    shutil.chown(home / "other", NOBODY)
    ids = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = [*ids, sys.executable, "-c", START, str(home / "other")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert ended.returncode == 0, ended.stderr
    assert (home / "other" / "postgres").stat().st_uid == NOBODY
