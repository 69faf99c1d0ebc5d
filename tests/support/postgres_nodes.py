"""PostgreSQL servers of a test's own on loopback: stopped, killed, copied, promoted; never the shared one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from service.database.embedded import EmbeddedServer
from tests.support.fault_injection import free_port

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # what is killed are processes: the kernel keeps what they wrote
    "max_connections": "60",
    "shared_buffers": "32MB",
}


class Node:
    """One server, in `home/name`. One that root starts runs as another user, whom `home` has to let in."""

    def __init__(self, home: Path, name: str) -> None:
        self.data = home / name
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._embedded = EmbeddedServer(self.data)
        self.system_user = self._embedded.account

    def make(self, **settings: str) -> None:
        """A new, empty one."""
        self._embedded.initialize({**SETTINGS, **settings})

    def copy(self, primary: "Node") -> None:
        """A standby of another."""
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={self.data.name}"
        self._run("pg_basebackup", "-d", source, "-D", str(self.data), "-R", "-c", "fast", "--no-sync")

    def start(self) -> None:
        """Returns once it takes connections."""
        log = str(self.data / "log")
        self._run("pg_ctl", "-w", "-D", str(self.data), "-l", log, "-o", f"-p {self.port}", "start")

    def promote(self) -> None:
        self._run("pg_ctl", "-w", "-D", str(self.data), "promote")

    def suspend(self) -> None:
        """From now on it neither answers nor closes a connection, as behind a broken network."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Returns when its processes are gone: until then it cannot be started again."""
        psutil.wait_procs(self.end(), timeout=10)

    def end(self) -> list[psutil.Process]:
        return self._signal(signal.SIGKILL)

    def _signal(self, sig: signal.Signals) -> list[psutil.Process]:
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # some serve one connection only
                process.send_signal(sig)
        return processes

    def processes(self) -> list[psutil.Process]:
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            postmaster = psutil.Process(pid)
            if str(self.data) not in postmaster.cmdline():  # it was killed, and somebody else has its number
                return []
            return [postmaster, *postmaster.children(recursive=True)]
        except (FileNotFoundError, psutil.NoSuchProcess):
            return []

    def _run(self, command: str, *arguments: str) -> None:
        self._embedded.run(command, *arguments)


@contextmanager
def node(home: Path, name: str = "one", **settings: str) -> Iterator[Node]:
    """A server that runs until the block ends."""
    made = Node(home, name)
    made.make(**settings)
    made.start()
    try:
        yield made
    finally:
        made.end()


@contextmanager
def standby(home: Path, primary: Node) -> Iterator[Node]:
    """A copy that follows it until it is promoted, or the block ends."""
    copied = Node(home, "two")
    copied.copy(primary)
    copied.start()
    try:
        yield copied
    finally:
        copied.end()
