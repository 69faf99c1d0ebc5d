"""What happens to a deployment, and what its clients see of it."""

import time
from io import BytesIO

import httpx
from machine import IMAGE, podman
from neighbours import Postgres
from PIL import Image
from stack import SANDBOX, Stack, until
from traffic import Traffic

API = ("api-1", "api-2")
BYTES_MAX = 200_000_000
PER_SECOND = 300.0
STEADY_SECONDS = 1.5
"""Longer than HAProxy needs to see a replica come or go."""
STOCK = 1_000_000
MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "pdf": "application/pdf"}

WITHIN = """
import importlib.util, os, shutil
assert os.getuid() == 10001, os.getuid()
assert not any(map(shutil.which, ("pip", "apt-get", "gcc", "perl"))) and not importlib.util.find_spec("pip")
for place in ("/", "/etc", "/opt/depot", importlib.util.find_spec("service").submodule_search_locations[0]):
    assert not os.access(place, os.W_OK), place
"""


def image() -> None:
    """Small, not root's, with nothing in it that builds."""
    size = int(podman("image", "inspect", "--format={{.Size}}", IMAGE))
    print(f"image size: {size / 1e6:.0f} MB")
    assert size <= BYTES_MAX, size
    podman(
        "run", "--rm", "--network=none", "--read-only", *SANDBOX, "--entrypoint=python", IMAGE, "-c", WITHIN
    )


def start(stack: Stack) -> None:
    stack.start("worker")
    for service in API:
        began = time.monotonic()
        stack.start(service)
        stack.wait_until_ready(service)
        print(f"{service}: start to ready {time.monotonic() - began:.1f} s")
        stack.check_health(service)


def smoke(stack: Stack, client: httpx.Client) -> None:
    """What is done through the balancer is in both replicas, and the worker does its part."""
    item = create(client, "BOLT-M8", quantity=5)
    order = {"customer_id": "c-1", "lines": [{"item_id": item, "quantity": 2}]}
    placed = done(client.post("/orders", json=order, headers={"X-Request-ID": "mine"}))
    assert placed.headers["X-Request-ID"] == "mine"
    for service in API:
        own = f"{stack.url(service)}/orders/{placed.json()['id']}"
        assert done(client.get(own)).json() == placed.json(), service
    refused = client.post("/orders", json={**order, "lines": [{"item_id": item, "quantity": 4}]})
    assert refused.json()["error"]["code"] == "INSUFFICIENT_STOCK", refused.text
    looked = ", ".join(f"{kind} {document(stack, client, kind):.1f} s" for kind in MEDIA)
    health = done(client.get("/health")).json()
    assert health["status"] == "healthy", health
    metrics = client.get("/metrics").status_code
    assert metrics in {200, 404}, metrics
    print(f"smoke: an order in both replicas, documents too; thumbnails after: {looked}; metrics: {metrics}")


def document(stack: Stack, client: httpx.Client, kind: str) -> float:
    """Upload one; returns how long the worker took to make a thumbnail."""
    file = BytesIO()
    Image.new("RGB", (640, 480), "teal").save(file, kind)
    upload = {"file": (f"a.{kind}", file.getvalue(), MEDIA[kind])}
    path = f"/documents/{done(client.post('/documents', files=upload)).json()['id']}"
    for service in API:
        assert done(client.get(f"{stack.url(service)}{path}/content")).content == file.getvalue(), service
    return until("a thumbnail", lambda: client.get(f"{path}/thumbnail").is_success)


def rolling_restart(stack: Stack, client: httpx.Client) -> None:
    """Both replicas, one after the other, as an update does it: nobody notices."""
    item = create(client, "NUT-M8")
    with Traffic(client, item, per_second=PER_SECOND) as traffic:
        for service in API:
            status = stack.stop(service)
            assert status == 0, f"{service} ended with {status}"
            stack.restart(service)
            time.sleep(STEADY_SECONDS)
    expect_all_well("rolling restart of both replicas", client, item, traffic)


def kill(stack: Stack, client: httpx.Client) -> None:
    """A replica is gone at once: what may be sent again is, and is carried out once."""
    item = create(client, "NUT-M10")
    with Traffic(client, item, per_second=PER_SECOND, repeatable=True) as traffic:
        time.sleep(STEADY_SECONDS)
        stack.kill("api-1")
        time.sleep(STEADY_SECONDS)
        stack.restart("api-1")
        time.sleep(STEADY_SECONDS)
    expect_all_well("kill -9 of a replica, reads and orders with a key", client, item, traffic)


def outage(stack: Stack, balancers: list[httpx.Client], database: Postgres) -> None:
    """The contract's error whoever answers: a replica without its database, a balancer without replicas."""
    database.stop()
    for client in balancers:
        until("DATABASE_UNAVAILABLE", lambda client=client: code(client) == "DATABASE_UNAVAILABLE")  # type: ignore[misc]
    database.start()
    seconds = until("the service again", lambda: balancers[0].get("/items").is_success)
    assert [stack.stop(service) for service in (*API, "worker")] == [0, 0, 0]
    error = {
        "code": "OVERLOADED",
        "message": "The service is overloaded; retry later",
        "path": "/items",
        "request_id": "mine",
    }
    for client in balancers:
        reply = client.get("/items", headers={"X-Request-ID": "mine"})
        assert (reply.status_code, reply.json()) == (503, {"error": error}), reply.text
        assert [reply.headers[name] for name in ("Retry-After", "X-Request-ID")] == ["1", "mine"]
    print(f"outage: DATABASE_UNAVAILABLE, working {seconds:.1f} s after the return; no replica: OVERLOADED")


def create(client: httpx.Client, sku: str, quantity: int = STOCK) -> str:
    item = {"sku": sku, "name": sku, "price": "0.10", "quantity": quantity}
    return str(done(client.post("/items", json=item)).json()["id"])


def expect_all_well(what: str, client: httpx.Client, item: str, traffic: Traffic) -> None:
    """No request failed, and stock went down by what was acknowledged: nothing lost, nothing done twice."""
    print(f"{what}: {traffic}")
    assert not traffic.failures, traffic.failures[:5]
    left = done(client.get(f"/items/{item}")).json()["quantity"]
    assert left == STOCK - traffic.ordered, (left, traffic.ordered)


def code(client: httpx.Client) -> str:
    return client.get("/items").headers.get("X-Error-Code", "")


def done(reply: httpx.Response) -> httpx.Response:
    assert reply.is_success, reply.text
    return reply
