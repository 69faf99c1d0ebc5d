"""Prerequisites: tools, a stand-in for the base image, and Depot's image."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
HOME = Path("/var/tmp/depot-check")
"""Images and containers are separate from the machine's own; a second run reuses the layers of the first."""

SUITE = "trixie"
BASE = "localhost/python:3.13-slim"
"""Debian with its own Python 3.13: the official image without the files that only its build needs."""
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
"""Podman's defaults exceed what some machines grant."""
INDEX_SETTINGS = {"index-url", "extra-index-url", "trusted-host", "proxy"}


class CannotRunError(Exception):
    """The reason why the test cannot run on this machine."""


def install(programs: Mapping[str, str] = PROGRAMS) -> None:
    """Install the packages of missing programs, with apt. Raises `CannotRunError`."""
    missing = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if os.geteuid() != 0:
        raise CannotRunError("root is required for namespaces, mounts and packages")
    if subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode != 0:
        raise CannotRunError("this sandbox does not allow namespaces")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotRunError(f"apt-get is missing, which would install {', '.join(missing)}")
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "RUNLEVEL": "1",
    }  # 1: starts no services
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *command],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise CannotRunError(f"apt-get {command[0]} failed:\n{done.stderr}")


def podman(*arguments: str, check: bool = True) -> str:
    """Run podman on separate storage. Returns stdout; for `podman logs` also stderr."""
    done = subprocess.run(
        ["podman", *_storage(), "--runtime", "runc", *arguments], capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"podman {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return (done.stdout + done.stderr if arguments[0] == "logs" else done.stdout).strip()


def build_base() -> None:
    """Build an image of Debian and its Python, unless it exists."""
    if podman("images", "--quiet", BASE):
        return
    with tempfile.TemporaryDirectory(dir=HOME) as directory:
        archive = f"{directory}/base.tar"
        excluded = [
            f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale", "info")
        ]
        _quietly(
            "mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates",
            "--dpkgopt=force-unsafe-io", *excluded, SUITE, archive,
        )  # fmt: skip
        podman("import", archive, BASE)


def check_containers() -> None:
    """Raises `CannotRunError` if images cannot be built or containers cannot run, as in some sandboxes."""
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
    """Build Depot's image from the unchanged Containerfile, by chroot: without a daemon or extra privileges.

    The machine's package index settings are mounted during the build; none of them is in the image.
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
    """Return pip's index settings on this machine, without local files."""
    listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    lines = [line.partition("=") for line in listed.splitlines()]
    settings = {name.split(".")[-1]: value.strip("'") for name, _, value in lines}
    index_lines = [
        f"{name} = {value}"
        for name, value in settings.items()
        if name in INDEX_SETTINGS and "file:" not in value
    ]
    return "\n".join(["[global]", *index_lines, ""])


def _quietly(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-6000:]}")
