"""PgBouncer in transaction mode, where no client keeps its session between transactions."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port, wait_for_listener
from tests.support.postgres_nodes import Node
from tests.support.requirements import find_program

PROGRAM = find_program("pgbouncer")

SERVERS = 3
"""Server connections, fewer than there are clients, so that they share."""


@contextmanager
def pgbouncer(node: Node) -> Iterator[str]:
    """Run PgBouncer as docs/database.md describes it, and yield its URL."""
    port = free_port()
    # It refuses to run as root, and pytest's directories are closed to other users.
    with tempfile.TemporaryDirectory(prefix="depot-pgbouncer-") as folder:
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(configured(node, port))
        if node.system_user is not None:
            shutil.chown(folder, node.system_user)
        process = subprocess.Popen(
            [str(PROGRAM), "--quiet", str(configuration)], user=node.system_user, stderr=subprocess.DEVNULL
        )
        try:
            wait_for_listener(port)
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            process.kill()
            process.wait()


def configured(node: Node, port: int) -> str:
    return f"""
[databases]
* = host=127.0.0.1 port={node.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {SERVERS}
max_client_conn = 200
server_login_retry = 1
ignore_startup_parameters = statement_timeout, idle_in_transaction_session_timeout
"""


def settings_behind(node: Node) -> dict[str, str]:
    """Return Depot's settings behind PgBouncer."""
    return {"DEPOT_DIRECT_DATABASE_URL": node.url, "DEPOT_STATEMENT_CACHE_SIZE": "0"}
