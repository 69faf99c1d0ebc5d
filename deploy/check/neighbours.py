"""The other services: this machine's PostgreSQL, HAProxy and nginx, each on its own host."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import HOME
from stack import DEPLOY, Stack

LOGS = HOME / "logs"


class Postgres:
    """A PostgreSQL server that can be stopped and restarted."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self._hosts = stack.hosts
        self._environment = stack.environment("db")
        self._folder = directory
        self._data = f"--pgdata={directory}/data"
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))

    def create(self) -> None:
        """Create the user, the password and the database that compose.yaml names."""
        shutil.chown(self._folder, "postgres", "postgres")
        password = self._folder / "password"
        password.write_text(self._environment["POSTGRES_PASSWORD"])
        user = f"--username={self._environment['POSTGRES_USER']}"
        methods = ("--auth-local=trust", "--auth-host=scram-sha-256")
        self._run("initdb", self._data, user, f"--pwfile={password}", *methods, "--no-sync")
        with (self._folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        self.start()
        self._run("createdb", f"--host={self._folder}", user, self._environment["POSTGRES_DB"])

    def start(self) -> None:
        options = f"-c listen_addresses=* -c unix_socket_directories={self._folder} -c fsync=off"
        self._run(
            "pg_ctl", "start", "--wait", self._data, f"--log={self._folder}/log", f"--options={options}"
        )

    def stop(self) -> None:
        if (self._folder / "data" / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "--mode=immediate", self._data)

    def _run(self, program: str, *arguments: str) -> None:
        become = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
        command = self._hosts.inside("db", *become, str(self._bin / program), *arguments)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def postgres(stack: Stack) -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(dir=HOME, prefix="postgres-"))
    database = Postgres(stack, directory)
    try:
        directory.chmod(0o755)  # initdb, as another user, reads the password
        database.create()
        yield database
    finally:
        database.stop()
        shutil.rmtree(directory)


@contextmanager
def haproxy(stack: Stack) -> Iterator[None]:
    """Run haproxy.cfg unchanged, with the variables of compose.yaml as addresses: there is no name server."""
    environment = stack.environment("lb")
    for variable in ("API_1", "API_2"):
        host, _, port = environment[variable].partition(":")
        environment[variable] = f"{stack.hosts.addresses[host]}:{port}"
    with _running(stack, "lb", "haproxy", "-db", "-f", str(DEPLOY / "haproxy.cfg"), environment=environment):
        yield


@contextmanager
def nginx(stack: Stack) -> Iterator[None]:
    with _running(stack, "nginx", "nginx", "-g", "daemon off;", "-c", str(DEPLOY / "nginx.conf")):
        yield


@contextmanager
def _running(
    stack: Stack, host: str, *command: str, environment: dict[str, str] | None = None
) -> Iterator[None]:
    become = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    with (LOGS / host).open("wb") as log:
        shutil.chown(log.name, "nobody")  # nginx opens it itself
        process = subprocess.Popen(
            stack.hosts.inside(host, *become, *command),
            env={**os.environ, **(environment or {})},
            stdout=log,
            stderr=log,
            cwd="/",
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()
