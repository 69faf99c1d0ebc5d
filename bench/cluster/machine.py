"""What the proof needs: root on Debian, network namespaces, packages, and a current Patroni."""

import subprocess
from pathlib import Path

from deploy.check.machine import CannotRunError, install

CHECKOUT = Path(__file__).parents[2]
HOME = Path("/var/tmp/depot-cluster")
"""PostgreSQL's system user must be able to read it, which a checkout need not allow."""
PATRONI = HOME / "venv" / "bin" / "patroni"
PYTHON = "/usr/bin/python3"

PROGRAMS = {
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "/usr/lib/postgresql/15/bin/postgres": "postgresql-15",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "nft": "nftables",
    "setpriv": "util-linux",
    PYTHON: "python3-venv",
}


def prepare() -> None:
    """Install what is missing. Raises `CannotRunError`."""
    install(PROGRAMS)
    HOME.mkdir(exist_ok=True)
    lock = CHECKOUT / "requirements" / "cluster.txt"
    installed = HOME / "venv" / lock.name
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    _run(PYTHON, "-m", "venv", "--clear", str(HOME / "venv"))
    pip = [str(PATRONI.with_name("python")), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run(*pip, "install", "--require-hashes", "--requirement", str(lock))
    installed.write_bytes(lock.read_bytes())


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRunError(f"{' '.join(command[:4])} failed:\n{done.stderr[-2000:]}")
