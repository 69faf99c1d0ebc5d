"""PostgreSQL servers on loopback for one test, which can be stopped, killed, copied and promoted."""

import atexit
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import psutil

from service.database import migrate
from service.database.embedded import EmbeddedServer, postgres
from service.settings import Settings
from tests.support.ports import free_port

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # what is killed are processes: the kernel keeps what they wrote
    "max_connections": "60",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # in the data directory: a killed server leaves nothing in /dev/shm
}


class Node:
    """A server with its data in `home/name`."""

    def __init__(self, home: Path, name: str) -> None:
        self.data = home / name
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._embedded = EmbeddedServer(self.data)
        self.system_user = self._embedded.account

    def make(self, **settings: str) -> None:
        """Create a new server with Depot's schema."""
        copy_migrated_data(self.data)
        self._embedded.initialize({**SETTINGS, **settings})

    def copy(self, primary: "Node") -> None:
        """Create a standby of another server."""
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={self.data.name}"
        self._run("pg_basebackup", "-d", source, "-D", str(self.data), "-R", "-c", "fast", "--no-sync")

    def start(self) -> None:
        """Start the server. Return once it accepts connections."""
        log = str(self.data / "log")
        self._run("pg_ctl", "-w", "-D", str(self.data), "-l", log, "-o", f"-p {self.port}", "start")

    def promote(self) -> None:
        self._run("pg_ctl", "-w", "-D", str(self.data), "promote")

    def suspend(self) -> None:
        """Suspend the server: it neither replies nor closes connections, as behind a broken network."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server. Return once its processes have ended, so that it can be started again."""
        psutil.wait_procs(self.end(), timeout=10)

    def end(self) -> list[psutil.Process]:
        return self._signal(signal.SIGKILL)

    def _signal(self, sig: signal.Signals) -> list[psutil.Process]:
        return signal_server(self.data, sig)

    def _run(self, command: str, *arguments: str) -> None:
        self._embedded.run(command, *arguments)


def copy_migrated_data(data: Path) -> None:
    """Fill the directory with the data of a new server that has Depot's schema."""
    data.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", f"{_migrated_data()}/.", str(data)], check=True)


@cache
def _migrated_data() -> Path:
    """Return the data of a stopped server. A copy takes a tenth of the time of a new, migrated one."""
    # Here, since it is a plugin: pytest rewrites it before anything imports it.
    from service.testing import scratch_directory  # noqa: PLC0415

    home = Path(mkdtemp(prefix="depot-migrated-", dir=scratch_directory()))
    atexit.register(shutil.rmtree, home)
    home.chmod(0o755)
    # In a thread, because an event loop may run in this one already.
    with postgres(home, {"fsync": "off"}) as url, ThreadPoolExecutor(1) as thread:
        thread.submit(migrate.upgrade, Settings(database_url=url)).result()
    (home / "postgres" / "log").unlink()
    return home / "postgres"


def server_processes(data: Path) -> list[psutil.Process]:
    """Return the processes of the server with this data, the postmaster first, or nothing if it has ended."""
    with suppress(FileNotFoundError, IndexError, psutil.NoSuchProcess):
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        postmaster = psutil.Process(pid)
        if any(str(data) in word for word in postmaster.cmdline()):  # its number may be another's by now
            return [postmaster, *postmaster.children(recursive=True)]
    return []


def signal_server(data: Path, sig: signal.Signals) -> list[psutil.Process]:
    """Send a signal to the processes of a server, and return them."""
    processes = server_processes(data)
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # some serve one connection only
            process.send_signal(sig)
    return processes


@contextmanager
def node(home: Path, name: str = "one", **settings: str) -> Iterator[Node]:
    """Run a server until the block ends."""
    made = Node(home, name)
    made.make(**settings)
    made.start()
    try:
        yield made
    finally:
        made.end()


@contextmanager
def standby(home: Path, primary: Node) -> Iterator[Node]:
    """Run a standby, which follows the primary until it is promoted, until the block ends."""
    copied = Node(home, "two")
    copied.copy(primary)
    copied.start()
    try:
        yield copied
    finally:
        copied.end()


@contextmanager
def replicated(scratch: Path) -> Iterator[tuple[Node, Node]]:
    """Run a primary with Depot's schema, and a standby for which no commit waits, until the block ends."""
    with TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)
        with node(home) as primary, standby(home, primary) as copy:
            yield primary, copy
