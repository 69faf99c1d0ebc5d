"""Requests of the maximum size that cost the most to handle, and how long other clients wait meanwhile."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import perf_counter, sleep

from service.settings import Settings

HEAD_BYTES = Settings().head_bytes_max - 512
"""The rest is for the request line and the key."""
BODY_BYTES = Settings().body_bytes_max
PROBE_INTERVAL_SECONDS = 0.002

Request = tuple[str, str, dict[str, str], bytes]
"""Method, path, headers and body."""


def filled(unit: str, size: int) -> str:
    return unit * (size // len(unit))


def heads() -> Iterator[tuple[str, Request]]:
    paths = {
        "path of secrets": "/depot_" + filled("/://:", HEAD_BYTES - 10),
        "path of slashes": filled("/", HEAD_BYTES),
        "path of escapes": "/" + filled("%E2%80%AE", HEAD_BYTES - 1),
        "path of dots": filled("/..", HEAD_BYTES),
        "search": "/items?q=" + filled("a%20", HEAD_BYTES - 9),
        "filters": "/items?" + filled("sku=a&", HEAD_BYTES - 7),
        "unknown parameters": "/items?" + "&".join(f"p{number}=1" for number in range(HEAD_BYTES // 8)),
        "long number": "/items?limit=" + filled("9", HEAD_BYTES - 13),
        "cursor": "/items?cursor=" + filled("eyJ", HEAD_BYTES - 14),
    }
    for name, path in paths.items():
        yield name, ("GET", path, {}, b"")
    headers = {
        "accepted types": ("Accept", "text/csv;q=0." + filled("0;q=0. ,a/b;", HEAD_BYTES - 20)),
        "entity tags": ("If-None-Match", filled('"1" ,', HEAD_BYTES)),
        "open entity tags": ("If-Match", filled('"', HEAD_BYTES)),
        "ranges": ("Range", "bytes=" + filled("0-1,", HEAD_BYTES - 6)),
        "forwarded": ("X-Forwarded-For", filled("10.0.0.1,", HEAD_BYTES)),
        "credentials": ("Authorization", "Bearer depot_" + filled("a_", HEAD_BYTES - 13)),
        "idempotency key": ("Idempotency-Key", filled("k ", HEAD_BYTES)),
        "trace": ("traceparent", filled("00-", HEAD_BYTES)),
        "content type": ("Content-Type", "application/json" + filled(";a=b", HEAD_BYTES - 16)),
        "origin": ("Origin", "https://" + filled("a.", HEAD_BYTES - 8)),
    }
    for name, header in headers.items():
        for method, path in (("GET", "/items"), ("POST", "/orders")):
            yield f"{name}, {method}", (method, path, dict([header]), b"")


def bodies() -> Iterator[tuple[str, Request]]:
    values = {
        "exponents": "[" + filled("1e308,", BODY_BYTES - 200) + "1]",
        "decimals": "[" + filled("0.1,", BODY_BYTES - 200) + "1]",
        "objects": "[" + filled("{},", BODY_BYTES - 200) + "1]",
        "depth": filled("[", BODY_BYTES // 2 - 100) + filled("]", BODY_BYTES // 2 - 100),
        "escapes": '"' + filled("\\u0000", BODY_BYTES - 200) + '"',
        "long numbers": "[" + filled("1" * 307 + ",", BODY_BYTES - 600) + "1]",
        "names": "{" + ",".join(f'"{number}":0' for number in range(BODY_BYTES // 10)) + "}",
        "same name": "{" + filled('"a":0,', BODY_BYTES - 200) + '"a":0}',
    }
    for name, value in values.items():
        yield (
            f"item, {name}",
            post("/items", f'{{"sku":"S","name":"n","price":"1","attributes":{{"a":{value}}}}}'),
        )
        yield f"action, {name}", post("/users/u/actions", f'{{"action":"x","metadata":{{"a":{value}}}}}')
        yield (
            f"resource, {name}",
            ("PUT", "/resources/r", JSON, f'{{"status":"s","metadata":{value}}}'.encode()),
        )
        yield f"order, {name}", post("/orders", f'{{"customer_id":"c","lines":{value}}}')
        yield f"job, {name}", post("/process", f'{{"kind":"report.export","payload":{value}}}')
        yield f"stock, {name}", post("/stock", f'{{"changes":{value}}}')
    lines = ",".join(['{"quantity":1,"sku":"a"}'] * (BODY_BYTES // 26))
    yield "order lines", post("/orders", f'{{"customer_id":"c","lines":[{lines}]}}')
    for name, rows in {
        "bad rows": filled(",,\n", BODY_BYTES // 2),
        "quotes": filled('""', BODY_BYTES // 3),
        "columns": filled(",", BODY_BYTES // 2) + "\n",
        "prices": filled("a,b,1e5\n", BODY_BYTES // 2),
    }.items():
        csv = {"kind": "catalog.import", "payload": {"csv": f"sku,name,price\n{rows}"}}
        yield f"import, {name}", post("/process", json.dumps(csv))
    yield "invalid UTF-8", ("POST", "/items", JSON, b'{"sku":"' + b"\xff" * (BODY_BYTES - 20) + b'"}')
    yield from forms()


def forms() -> Iterator[tuple[str, Request]]:
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'
    for name, body in {
        "parts": part * (BODY_BYTES // len(part)),
        "boundaries": b"\r\n--" * (BODY_BYTES // 4),
        "part headers": b"--b\r\n" + b"X: y\r\n" * (BODY_BYTES // 6),
        "file name": b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + b"\\" * BODY_BYTES,
    }.items():
        for path in ("/documents", "/upload"):
            yield f"form, {name}, {path}", ("POST", path, FORM, body)


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
JSON = {"Content-Type": "application/json"}


def post(path: str, body: str) -> Request:
    return "POST", path, JSON, body.encode()[:BODY_BYTES]


LARGE_REQUESTS: dict[str, Request] = {**dict(heads()), **dict(bodies())}


def send(address: tuple[str, int], key: str, request: Request) -> int:
    """Send one request; return its status, or 0 if the server closed the connection early."""
    method, path, headers, body = request
    with closing(http.client.HTTPConnection(*address, timeout=60)) as connection:
        try:
            connection.request(method, path, body or None, {"Authorization": f"Bearer {key}", **headers})
            reply = connection.getresponse()
            reply.read()
        except (ConnectionError, http.client.HTTPException):
            return 0
        return reply.status


@contextmanager
def probing(address: tuple[str, int]) -> Iterator[list[float]]:
    """Request `/health/live` again and again; yield the seconds that each request took."""
    seconds: list[float] = []
    stopped = threading.Event()

    def probe() -> None:
        connection = http.client.HTTPConnection(*address, timeout=60)
        while not stopped.is_set():
            started_at = perf_counter()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            seconds.append(perf_counter() - started_at)
            sleep(PROBE_INTERVAL_SECONDS)
        connection.close()

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield seconds
    finally:
        stopped.set()
        thread.join()


def longest_wait(address: tuple[str, int], key: str, name: str) -> tuple[int, float]:
    """Send a request; return its status and the longest time that a health check took meanwhile."""
    with probing(address) as seconds:
        status = send(address, key, LARGE_REQUESTS[name])
        sleep(10 * PROBE_INTERVAL_SECONDS)
    return status, max(seconds)
