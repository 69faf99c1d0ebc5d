"""What this machine has to have: the tools, an image that stands in for the base, and Depot's own image."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
HOME = Path("/var/tmp/depot-check")
"""Images and containers are kept apart from the machine's own; a second run finds the layers of the first."""

SUITE = "trixie"
BASE = "localhost/python:3.13-slim"
"""Debian with its own Python 3.13: what the official image is made of, less what only its build is."""
IMAGE = "localhost/depot:check"

PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "ip": "iproute2",
    "setpriv": "util-linux",
    "pg_lsclusters": "postgresql",
}
LIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")
"""Podman's defaults are more than a machine may grant."""
INDEX_SETTINGS = {"index-url", "extra-index-url", "trusted-host", "proxy"}


class CannotRunError(Exception):
    """Why the test cannot run on this machine at all."""


def install() -> None:
    """Install what is missing, with apt. Raises `CannotRunError`."""
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if os.geteuid() != 0:
        raise CannotRunError("it needs root: for namespaces, mounts and packages")
    if subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode != 0:
        raise CannotRunError("this sandbox lets nobody make namespaces")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotRunError(f"there is no apt-get to install {', '.join(missing)}")
    quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # 1: starts no services
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *command],
            env=quietly, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise CannotRunError(f"apt-get {command[0]} failed:\n{done.stderr}")


def podman(*arguments: str, check: bool = True) -> str:
    """Podman on a storage of its own. Returns stdout, and for `podman logs` both."""
    done = subprocess.run(
        ["podman", *_storage(), "--runtime", "runc", *arguments], capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"podman {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return (done.stdout + done.stderr if arguments[0] == "logs" else done.stdout).strip()


def build_base() -> None:
    """An image of Debian and its Python, unless there is one."""
    if podman("images", "--quiet", BASE):
        return
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        archive = f"{folder}/base.tar"
        left_out = [
            f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale", "info")
        ]
        _quietly(
            "mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates",
            "--dpkgopt=force-unsafe-io", *left_out, SUITE, archive,
        )  # fmt: skip
        podman("import", archive, BASE)


def try_out() -> None:
    """Raises `CannotRunError` unless images can be built and containers be run: some sandboxes forbid it."""
    image = f"{BASE}-probe"
    for command in (
        ["buildah", *_storage(), "build", "--isolation=chroot", "--pull=never", f"--tag={image}", "-"],
        ["podman", *_storage(), "--runtime", "runc", "run", "--rm", "--network=none", *LIMITS, image, "true"],
    ):
        done = subprocess.run(
            command, input=f"FROM {BASE}\nRUN true\n", capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise CannotRunError(f"{command[0]} does not work here:\n{done.stderr[-2000:]}")


def build_image() -> None:
    """Depot's image from the unchanged Containerfile, by chroot: no daemon, no privileges to hand out.

    How this machine reaches a package index is mounted while the build runs: none of it is in the image.
    """
    with tempfile.NamedTemporaryFile("w", dir=HOME) as configuration:
        configuration.write(_pip_configuration())
        configuration.flush()
        _quietly(
            "buildah", *_storage(), "build", "--layers",
            "--format=docker", "--pull=never", "--isolation=chroot",
            f"--build-arg=BASE={BASE}", "--volume=/etc/ssl/certs:/etc/ssl/certs:ro",
            f"--volume={configuration.name}:/etc/pip.conf:ro", f"--tag={IMAGE}", str(CHECKOUT),
        )  # fmt: skip


def _storage() -> list[str]:
    return ["--root", f"{HOME}/images", "--runroot", f"{HOME}/run"]


def _pip_configuration() -> str:
    """Where pip finds its index on this machine, without what lies on its disk."""
    listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    lines = [line.partition("=") for line in listed.splitlines()]
    settings = {name.split(".")[-1]: value.strip("'") for name, _, value in lines}
    kept = [
        f"{name} = {value}"
        for name, value in settings.items()
        if name in INDEX_SETTINGS and "file:" not in value
    ]
    return "\n".join(["[global]", *kept, ""])


def _quietly(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-6000:]}")
