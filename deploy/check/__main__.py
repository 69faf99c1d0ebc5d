"""The container test: builds the image, runs deploy/'s own configuration, and uses it as clients do.

It exits with status 77 and a reason if it cannot run here. Everything runs in separate network namespaces.
"""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import scenes
from machine import CannotRunError, build_base, build_image, check_containers, install
from neighbours import LOGS, haproxy, nginx, postgres
from network import network
from stack import Stack, responds, until

CANNOT_RUN = 77
BALANCER_PORT = 8080


def main() -> int:
    started_at = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    try:
        timed("tools", install)
        timed("base image", build_base)
        timed("trial container", check_containers)
    except CannotRunError as error:
        print(f"container test: NOT RUN: {error}")
        return CANNOT_RUN
    timed("image", build_image)
    scenes.image()
    with (
        network("db", "migrate", "worker", *scenes.API, "lb", "nginx", "client") as hosts,
        ExitStack() as running,
    ):
        hosts.enter("client")
        stack = Stack(hosts)
        running.callback(stack.remove, *scenes.API, "worker")
        try:
            run_scenes(stack, running)
        except BaseException:
            show_logs(stack)
            raise
    print(f"container test: passed in {time.monotonic() - started_at:.0f} s", flush=True)
    return 0


def run_scenes(stack: Stack, running: ExitStack) -> None:
    """Run docs/deploy.md, from the empty database to the end of all replicas."""
    database = running.enter_context(postgres(stack))
    timed("depot migrate", lambda: stack.once("migrate"))
    key = stack.once("api-1", "keys", "create", "--name", "shop", "--scope", "admin")
    scenes.start(stack)
    balancers = []
    for host, balancer in (("lb", haproxy), ("nginx", nginx)):
        running.enter_context(balancer(stack))
        url = stack.url(host, BALANCER_PORT)
        until(f"{host} ready", lambda url=url: responds(f"{url}/health/ready"))  # type: ignore[misc]
        headers = {"Authorization": f"Bearer {key}"}
        balancers.append(running.enter_context(httpx.Client(base_url=url, headers=headers, timeout=30)))
    scenes.smoke(stack, balancers[0])
    scenes.create(balancers[1], "BY-NGINX")
    scenes.rolling_restart(stack, balancers[0])
    scenes.kill(stack, balancers[0])
    scenes.outage(stack, balancers, database)


def show_logs(stack: Stack) -> None:
    for service in (*scenes.API, "worker"):
        print(f"--- {service}\n{stack.logs(service)}", file=sys.stderr)
    for log in LOGS.iterdir():
        print(f"--- {log.name}\n{log.read_text()[-4000:]}", file=sys.stderr)


def timed(what: str, do: Callable[[], object]) -> None:
    started_at = time.monotonic()
    do()
    print(f"{what}: {time.monotonic() - started_at:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
