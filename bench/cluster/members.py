"""The database hosts: etcd, Patroni with its PostgreSQL, and HAProxy, each in a network namespace."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from bench.cluster.machine import PATRONI
from deploy.check.network import Hosts
from tests.support.postgres_nodes import signal_server

DEPLOY = Path(__file__).parents[2] / "deploy" / "patroni"
DATABASES = ("db1", "db2", "db3")
CONFIGURATION_STORES = ("etcd1", "etcd2", "etcd3")
BALANCER = "lb"
PASSWORD = "proof"  # of servers that no other machine reaches
REST_SECONDS = 3.0
START_PATRONI = """
mount -t tmpfs -o mode=1777 tmpfs /run/postgresql
exec setpriv --reuid=postgres --regid=postgres --init-groups "$@"
"""
"""Hosts have directories of their own for PostgreSQL's sockets; `ip netns exec` unshares the mounts."""
END_SECONDS = 10.0


class HostProcess:
    """A program on a host. It can be killed, suspended, and started again."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._command = command
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def signal(self, sig: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sig)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_SECONDS)

    @property
    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


class Member:
    """A database host: Patroni, and the PostgreSQL that it runs."""

    def __init__(self, hosts: Hosts, name: str, home: Path) -> None:
        self.name = name
        self.address = hosts.addresses[name]
        self._data = home / name
        self.patroni = HostProcess(
            hosts.inside(name, "sh", "-c", START_PATRONI, "-", str(PATRONI), str(home / "patroni.yml")),
            {
                "PATRONI_NAME": name,
                "PATRONI_POSTGRESQL_DATA_DIR": str(self._data),
                "PATRONI_POSTGRESQL_PGPASS": str(home / f"{name}.pgpass"),
                "PATRONI_POSTGRESQL_CONNECT_ADDRESS": f"{name}:5432",
                "PATRONI_RESTAPI_CONNECT_ADDRESS": f"{name}:8008",
                "PATRONI_SUPERUSER_PASSWORD": PASSWORD,
                "PATRONI_REPLICATION_PASSWORD": PASSWORD,
                "PATRONI_REWIND_PASSWORD": PASSWORD,
            },
            home / f"{name}.log",
        )

    def ask(
        self, method: str, path: str, timeout: float = REST_SECONDS, json: object = None
    ) -> httpx.Response | None:
        """Send a request to Patroni's REST API. Return None if it does not answer."""
        try:
            return httpx.request(method, f"http://{self.address}:8008{path}", timeout=timeout, json=json)
        except httpx.TransportError:
            return None

    def signal_postgres(self, sig: signal.Signals) -> None:
        signal_server(self._data, sig)

    def power_off(self) -> None:
        """Kill everything that runs on the host."""
        self.patroni.kill()
        self.signal_postgres(signal.SIGKILL)


class Network:
    """Cuts hosts off. What is cut is silent: packets are dropped, and nothing is reset."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._cut: set[str] = set()

    def cut(self, name: str, others: Iterable[str]) -> None:
        """Drop everything between a host and the others."""
        addresses = ", ".join(self._hosts.addresses[other] for other in others)
        chains = "".join(
            f"chain {chain} {{ type filter hook {chain} priority 0; ip {end} {{ {addresses} }} drop; }}\n"
            for chain, end in (("input", "saddr"), ("output", "daddr"))
        )
        self._load(name, f"table inet depot {{ {chains} }}")
        self._cut.add(name)

    def isolate(self, name: str) -> None:
        self.cut(name, self._hosts.addresses.keys() - {name})

    def heal(self) -> None:
        for name in self._cut:
            self._load(name, "flush ruleset")
        self._cut.clear()

    def _load(self, name: str, rules: str) -> None:
        command = self._hosts.inside(name, "nft", "-f", "-")
        subprocess.run(command, input=rules, text=True, check=True)


def store(hosts: Hosts, name: str, home: Path) -> HostProcess:
    """Return a member of etcd."""
    lines = (DEPLOY / "etcd.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    own = {
        "ETCD_NAME": name,
        "ETCD_DATA_DIR": str(home / name),
        "ETCD_ADVERTISE_CLIENT_URLS": f"http://{name}:2379",
        "ETCD_INITIAL_ADVERTISE_PEER_URLS": f"http://{name}:2380",
    }
    return HostProcess(hosts.inside(name, "etcd"), settings | own, home / f"{name}.log")


def balancer(hosts: Hosts, home: Path) -> HostProcess:
    """Return HAProxy in front of the databases."""
    servers = {
        f"DB_{number}": f"{hosts.addresses[name]}:5432" for number, name in enumerate(DATABASES, start=1)
    }
    command = hosts.inside(BALANCER, "haproxy", "-f", str(DEPLOY / "haproxy-db.cfg"))
    bind = {"DB_BIND": f"{hosts.addresses[BALANCER]}:5432"}
    return HostProcess(command, servers | bind, home / "haproxy.log")


@contextmanager
def running(hosts: Hosts, home: Path) -> Iterator[tuple[dict[str, Member], dict[str, HostProcess]]]:
    """Run all hosts until the block ends; yield the databases and the members of etcd by name."""
    text = (DEPLOY / "patroni.yml").read_text()
    assert "mode: required" in text
    # A watchdog would restart this machine, and with it the proof.
    (home / "patroni.yml").write_text(text.replace("mode: required", "mode: 'off'"))
    shutil.chown(home, "postgres")
    stores = {name: store(hosts, name, home) for name in CONFIGURATION_STORES}
    members = {name: Member(hosts, name, home) for name in DATABASES}
    proxy = balancer(hosts, home)
    with ExitStack() as stack:
        for process in (*stores.values(), proxy):
            stack.callback(process.kill)
            process.start()
        for member in members.values():
            stack.callback(member.power_off)
            member.patroni.start()
        yield members, stores
