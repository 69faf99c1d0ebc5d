"""Hosts on an isolated network: namespaces joined by a bridge, without a route to the outside."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NETWORK = "10.77.0"
CLONE_NEWNET = 0x40000000
FILES = Path("/etc/netns")
"""`ip netns exec` replaces files of /etc by those in the namespace's directory here."""


class Hosts:
    """Addresses and namespaces by host name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=10)}

    def namespace(self, name: str) -> str:
        return f"depot-{os.getpid()}-{name}"

    def inside(self, name: str, *command: str) -> list[str]:
        """Return the command that runs `command` on a host."""
        return ["ip", "netns", "exec", self.namespace(name), *command]

    def enter(self, name: str) -> None:
        """Move this process, and the processes that it starts from now on, to a host."""
        with Path(f"/run/netns/{self.namespace(name)}").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def network(*names: str) -> Iterator[Hosts]:
    """Create the hosts; they are removed when the block ends."""
    hosts = Hosts(names)
    switch = hosts.namespace("switch")
    hosts_file = "".join(f"{address} {name}\n" for name, address in hosts.addresses.items())
    created: list[str] = []
    try:
        for namespace in (switch, *map(hosts.namespace, names)):
            _ip("netns", "add", namespace)
            created.append(namespace)
            FILES.joinpath(namespace).mkdir(parents=True)
            FILES.joinpath(namespace, "hosts").write_text(f"127.0.0.1 localhost\n{hosts_file}")
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for name, address in hosts.addresses.items():
            _plug_in(switch, hosts.namespace(name), name, address)
        yield hosts
    finally:
        for namespace in created:
            _ip("netns", "delete", namespace)
            shutil.rmtree(FILES / namespace)


def _plug_in(switch: str, namespace: str, port: str, address: str) -> None:
    _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
    _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", namespace, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
