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
    """The services of compose.yaml, each in a container on the host of its name."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        variables = {
            "POSTGRES_PASSWORD": secrets.token_hex(16),
            "DEPOT_SECRET": secrets.token_hex(24),
            "DEPOT_IMAGE": IMAGE,
        }
        text = (DEPLOY / "compose.yaml").read_text()
        self._services: dict[str, dict[str, Any]] = yaml.safe_load(
            VARIABLE.sub(lambda match: variables.get(match[1], match[0]), text)
        )["services"]
        self._blobs = f"blobs-{os.getpid()}"

    def url(self, host: str, port: int = PORT) -> str:
        return f"http://{self.hosts.addresses[host]}:{port}"

    def environment(self, service: str) -> dict[str, str]:
        return dict(self._services[service]["environment"])

    def once(self, service: str, *command: str) -> str:
        """Run a command like `docker compose run --rm SERVICE COMMAND`. Returns stdout."""
        return podman("run", "--rm", *self._run(service, command or self._services[service]["command"]))

    def start(self, service: str) -> None:
        name = f"--name={self._container(service)}"
        podman("run", "--detach", name, *self._run(service, self._services[service].get("command", ())))

    def stop(self, service: str) -> int:
        """Stop a service as Compose does: SIGTERM, then a grace period. Returns the exit status."""
        grace_seconds = self._services[service]["stop_grace_period"].removesuffix("s")
        podman("stop", f"--time={grace_seconds}", self._container(service))
        return int(podman("inspect", "--format={{.State.ExitCode}}", self._container(service)))

    def kill(self, service: str) -> None:
        podman("kill", "--signal=KILL", self._container(service))

    def restart(self, service: str) -> None:
        podman("start", self._container(service))
        self.wait_until_ready(service)

    def wait_until_ready(self, service: str) -> float:
        return until(f"{service} ready", lambda: responds(f"{self.url(service)}/health/ready"))

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
        service_definition = self._services[service]
        assert service_definition["read_only"], service
        return [
            f"--network=ns:/run/netns/{self.hosts.namespace(service)}",
            *(f"--add-host={name}:{address}" for name, address in self.hosts.addresses.items()),
            *(f"--env={name}={value}" for name, value in service_definition["environment"].items()),
            "--read-only",
            *(f"--cap-drop={capability}" for capability in service_definition["cap_drop"]),
            *(
                f"--security-opt={option.removesuffix(':true')}"
                for option in service_definition["security_opt"]
            ),
            *(f"--tmpfs={mount}" for mount in service_definition["tmpfs"]),
            *(
                f"--volume={volume.replace('blobs', self._blobs, 1)}"
                for volume in service_definition["volumes"]
            ),
            f"--memory={service_definition['mem_limit']}",
            *SANDBOX,
            service_definition["image"],
            *command,
        ]


def responds(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def until(what: str, holds: Callable[[], bool]) -> float:
    """Poll until the condition holds; return the seconds it took."""
    started_at = time.monotonic()
    while not holds():
        if time.monotonic() - started_at > WAIT_SECONDS:
            raise TimeoutError(what)
        time.sleep(0.05)
    return time.monotonic() - started_at
