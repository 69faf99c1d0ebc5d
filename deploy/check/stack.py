"""Depot's services of compose.yaml, in containers run by podman."""

import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml
from machine import IMAGE, LIMITS, podman
from network import Hosts

DEPLOY = Path(__file__).parents[1]
VARIABLE = re.compile(r"\$\{(\w+)(?::[-?][^}]*)?\}")
PORT = 8000
WAIT_SECONDS = 120.0

SANDBOX = (
    "--health-interval=disable",  # podman leaves the timer to systemd
    "--log-driver=k8s-file",
    *LIMITS,
)


class Stack:
    """What compose.yaml says. A service's container is on the host of its name."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        given = {
            "POSTGRES_PASSWORD": secrets.token_hex(16),
            "DEPOT_SECRET": secrets.token_hex(24),
            "DEPOT_IMAGE": IMAGE,
        }
        text = (DEPLOY / "compose.yaml").read_text()
        self._services: dict[str, dict[str, Any]] = yaml.safe_load(
            VARIABLE.sub(lambda found: given.get(found[1], found[0]), text)
        )["services"]
        self._blobs = f"blobs-{os.getpid()}"

    def url(self, host: str, port: int = PORT) -> str:
        return f"http://{self.hosts.addresses[host]}:{port}"

    def environment(self, service: str) -> dict[str, str]:
        return dict(self._services[service]["environment"])

    def once(self, service: str, *command: str) -> str:
        """Like `docker compose run --rm SERVICE COMMAND`. Returns stdout."""
        return podman("run", "--rm", *self._run(service, command or self._services[service]["command"]))

    def start(self, service: str) -> None:
        name = f"--name={self._container(service)}"
        podman("run", "--detach", name, *self._run(service, self._services[service].get("command", ())))

    def stop(self, service: str) -> int:
        """As Compose stops it: SIGTERM, then patience. Returns the exit status."""
        patience = self._services[service]["stop_grace_period"].removesuffix("s")
        podman("stop", f"--time={patience}", self._container(service))
        return int(podman("inspect", "--format={{.State.ExitCode}}", self._container(service)))

    def kill(self, service: str) -> None:
        podman("kill", "--signal=KILL", self._container(service))

    def restart(self, service: str) -> None:
        podman("start", self._container(service))
        self.wait_until_ready(service)

    def wait_until_ready(self, service: str) -> float:
        return until(f"{service} ready", lambda: answers(f"{self.url(service)}/health/ready"))

    def check_health(self, service: str) -> None:
        """Run the image's HEALTHCHECK. Raises `RuntimeError` if it fails."""
        podman("healthcheck", "run", self._container(service))

    def remove(self, *services: str) -> None:
        for service in services:
            podman("rm", "--force", "--time=0", self._container(service), check=False)
        podman("volume", "rm", self._blobs, check=False)

    def logs(self, service: str) -> str:
        return podman("logs", "--tail=20", self._container(service), check=False)

    def _container(self, service: str) -> str:
        return f"depot-{os.getpid()}-{service}"

    def _run(self, service: str, command: Any) -> list[str]:
        said = self._services[service]
        assert said["read_only"], service
        return [
            f"--network=ns:/run/netns/{self.hosts.namespace(service)}",
            *(f"--add-host={name}:{address}" for name, address in self.hosts.addresses.items()),
            *(f"--env={name}={value}" for name, value in said["environment"].items()),
            "--read-only",
            *(f"--cap-drop={capability}" for capability in said["cap_drop"]),
            *(f"--security-opt={option.removesuffix(':true')}" for option in said["security_opt"]),
            *(f"--tmpfs={mount}" for mount in said["tmpfs"]),
            *(f"--volume={volume.replace('blobs', self._blobs, 1)}" for volume in said["volumes"]),
            f"--memory={said['mem_limit']}",
            *SANDBOX,
            said["image"],
            *command,
        ]


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def until(what: str, holds: Callable[[], bool]) -> float:
    """Ask until it holds; returns the seconds it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > WAIT_SECONDS:
            raise TimeoutError(what)
        time.sleep(0.05)
    return time.monotonic() - began
