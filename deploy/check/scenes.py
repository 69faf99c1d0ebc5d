"""Deployment scenarios and what clients observe."""

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
"""Longer than HAProxy needs to notice that a replica starts or stops."""
STOCK = 1_000_000
MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "pdf": "application/pdf"}

PROBE = """
import importlib.util, os, shutil
assert os.getuid() == 10001, os.getuid()
assert not any(map(shutil.which, ("pip", "apt-get", "gcc", "perl"))) and not importlib.util.find_spec("pip")
for place in ("/", "/etc", "/opt/depot", importlib.util.find_spec("service").submodule_search_locations[0]):
    assert not os.access(place, os.W_OK), place
"""


def image() -> None:
    """Check that the image is small, does not run as root, and contains no build tools."""
    size = int(podman("image", "inspect", "--format={{.Size}}", IMAGE))
    print(f"image size: {size / 1e6:.0f} MB")
    assert size <= BYTES_MAX, size
    podman(
        "run", "--rm", "--network=none", "--read-only", *SANDBOX, "--entrypoint=python", IMAGE, "-c", PROBE
    )


def start(stack: Stack) -> None:
    stack.start("worker")
    for service in API:
        started_at = time.monotonic()
        stack.start(service)
        stack.wait_until_ready(service)
        print(f"{service}: start to ready {time.monotonic() - started_at:.1f} s")
        stack.check_health(service)


def smoke(stack: Stack, client: httpx.Client) -> None:
    """Check that a change made through the balancer is in both replicas, and that the worker runs."""
    item = create(client, "BOLT-M8", quantity=5)
    order = {"customer_id": "c-1", "lines": [{"item_id": item, "quantity": 2}]}
    placed = done(client.post("/orders", json=order, headers={"X-Request-ID": "mine"}))
    assert placed.headers["X-Request-ID"] == "mine"
    for service in API:
        own = f"{stack.url(service)}/orders/{placed.json()['id']}"
        assert done(client.get(own)).json() == placed.json(), service
    rejected = client.post("/orders", json={**order, "lines": [{"item_id": item, "quantity": 4}]})
    assert rejected.json()["error"]["code"] == "INSUFFICIENT_STOCK", rejected.text
    durations = ", ".join(f"{kind} {document(stack, client, kind):.1f} s" for kind in MEDIA)
    health = done(client.get("/health")).json()
    assert health["status"] == "healthy", health
    metrics = client.get("/metrics").status_code
    assert metrics in {200, 404}, metrics
    print(
        f"smoke: an order in both replicas, documents too; thumbnails after: {durations}; metrics: {metrics}"
    )


def document(stack: Stack, client: httpx.Client, kind: str) -> float:
    """Upload a document; return the seconds until the worker has made its thumbnail."""
    file = BytesIO()
    Image.new("RGB", (640, 480), "teal").save(file, kind)
    upload = {"file": (f"a.{kind}", file.getvalue(), MEDIA[kind])}
    path = f"/documents/{done(client.post('/documents', files=upload)).json()['id']}"
    for service in API:
        assert done(client.get(f"{stack.url(service)}{path}/content")).content == file.getvalue(), service
    return until("a thumbnail", lambda: client.get(f"{path}/thumbnail").is_success)


def rolling_restart(stack: Stack, client: httpx.Client) -> None:
    """Restart both replicas, one after the other, as an update does; no client notices."""
    item = create(client, "NUT-M8")
    with Traffic(client, item, per_second=PER_SECOND) as traffic:
        for service in API:
            status = stack.stop(service)
            assert status == 0, f"{service} ended with {status}"
            stack.restart(service)
            time.sleep(STEADY_SECONDS)
    check_traffic("rolling restart of both replicas", client, item, traffic)


def kill(stack: Stack, client: httpx.Client) -> None:
    """Kill a replica: repeatable requests are sent again and take effect once."""
    item = create(client, "NUT-M10")
    with Traffic(client, item, per_second=PER_SECOND, repeatable=True) as traffic:
        time.sleep(STEADY_SECONDS)
        stack.kill("api-1")
        time.sleep(STEADY_SECONDS)
        stack.restart("api-1")
        time.sleep(STEADY_SECONDS)
    check_traffic("kill -9 of a replica, reads and orders with a key", client, item, traffic)


def outage(stack: Stack, balancers: list[httpx.Client], database: Postgres) -> None:
    """Check the error contract of a replica without a database and of a balancer without replicas."""
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


def check_traffic(what: str, client: httpx.Client, item: str, traffic: Traffic) -> None:
    """Check that no request failed and stock fell by what was acknowledged: nothing is lost or repeated."""
    print(f"{what}: {traffic}")
    assert not traffic.failures, traffic.failures[:5]
    left = done(client.get(f"/items/{item}")).json()["quantity"]
    assert left == STOCK - traffic.ordered, (left, traffic.ordered)


def code(client: httpx.Client) -> str:
    return client.get("/items").headers.get("X-Error-Code", "")


def done(reply: httpx.Response) -> httpx.Response:
    assert reply.is_success, reply.text
    return reply
