"""The peers in other languages: what each needs, and how it is made ready."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

APPS = Path(__file__).with_name("peers")
FASTIFY = APPS / "fastify"
GO_BINARY = Path(__file__).with_name("results") / "go-peer"
GO_PACKAGES = Path("/usr/share/gocode")
"""Where Debian's packages put the sources of Go libraries."""
BUILD_SECONDS = 600


def prepare_fastify() -> str | None:
    """Install the dependencies. Return why it cannot run, if it cannot."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "needs Node 20 or newer"
    return _run("npm", "ci", "--silent", "--no-fund", "--no-audit", cwd=FASTIFY)


def prepare_go() -> str | None:
    """Build the program. Return why it cannot run, if it cannot."""
    if shutil.which("go") is None or not (GO_PACKAGES / "src/github.com/jackc/pgx").is_dir():
        return "needs Debian's golang-go and golang-github-jackc-pgx-v4-dev"
    environment = ("GO111MODULE=off", f"GOPATH={GO_PACKAGES}", "GOFLAGS=-buildvcs=false")
    return _run("env", *environment, "go", "build", "-o", str(GO_BINARY), ".", cwd=APPS / "go")


PREPARE: dict[str, Callable[[], str | None]] = {"fastify": prepare_fastify, "go": prepare_go}
"""Functions that prepare a peer before it can start, by its name. Each returns a problem, or None."""


def _run(*command: str, cwd: Path) -> str | None:
    GO_BINARY.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    return f"{command[0]} failed: {done.stderr.strip()[-500:]}" if done.returncode else None
