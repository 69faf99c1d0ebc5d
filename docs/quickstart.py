"""Depot in Python. Run: python quickstart.py http://127.0.0.1:8000 "$(cat .depot/api-key)" """

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from threading import Thread
from uuid import uuid4

import httpx  # pip install httpx

url, key = sys.argv[1:]
depot = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"})


def call(method, path, **request):
    """Send a request, and repeat it while Depot asks for that. The key makes this safe for a POST."""
    headers = {"Idempotency-Key": str(uuid4()), **request.pop("headers", {})}
    for _ in range(10):
        try:
            reply = depot.request(method, path, headers=headers, **request)
        except httpx.TransportError:
            time.sleep(1)
            continue
        if reply.is_success or "Retry-After" not in reply.headers:
            return reply
        time.sleep(float(reply.headers["Retry-After"]))
    raise SystemExit(f"{method} {path} failed ten times")


def pages(path, **filters):
    """Yield the entries of a list, page by page."""
    while True:
        page = call("GET", path, params=filters).raise_for_status().json()
        yield from page["data"]
        if page["next_cursor"] is None:
            return
        filters["cursor"] = page["next_cursor"]


def is_genuine(secret, headers, body, tolerance_seconds=300):
    """Return whether Depot sent this body recently. `secret` starts with whsec_."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256)
    expected = "v1," + base64.b64encode(digest).decode()
    is_recent = abs(time.time() - int(headers["webhook-timestamp"])) <= tolerance_seconds
    return is_recent and any(
        hmac.compare_digest(expected, one) for one in headers["webhook-signature"].split(" ")
    )


# Create an item.
sku, customer = f"BOLT-{uuid4().hex[:8]}", f"customer-{uuid4().hex[:8]}"
bolt = {"sku": sku, "name": "Bolt", "price": "9.99", "quantity": 5, "description": "Steel"}
created = call("POST", "/items", json=bolt).raise_for_status()
item = created.json()
print(f"created: {item['quantity']} bolts at {item['price']} {item['currency']}")

# Change one of its fields, if no other client has changed the item. Null clears a field.
path, unchanged = f"/items/{item['id']}", {"If-Match": created.headers["ETag"]}
patched = call("PATCH", path, headers=unchanged, json={"description": None}).raise_for_status().json()
print(f"patched: version {patched['version']}, description {json.dumps(patched['description'])}")
late = call("PATCH", path, headers=unchanged, json={"name": "Late"})
print(f"rejected: {late.headers['X-Error-Code']}")

# Receive webhooks: answer 2xx to genuine ones, and process them later.
received = Queue()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        genuine = is_genuine(webhook["secret"], self.headers, body)
        self.send_response_only(204 if genuine else 401)
        self.end_headers()
        if genuine:
            received.put(json.loads(body))


server = HTTPServer(("127.0.0.1", 0), Receiver)
subscription = {"url": f"http://127.0.0.1:{server.server_port}/", "events": ["order.placed"]}
webhook = call("POST", "/webhooks", json=subscription).raise_for_status().json()
Thread(target=server.serve_forever, daemon=True).start()

# Place an order, and repeat it with the same key, as after a lost connection.
order = {"customer_id": customer, "lines": [{"sku": sku, "quantity": 2}]}
once = {"Idempotency-Key": str(uuid4())}
placed = call("POST", "/orders", headers=once, json=order).raise_for_status().json()
print(f"ordered: {placed['lines'][0]['quantity']} bolts for {placed['total']} {placed['currency']}")
again = call("POST", "/orders", headers=once, json=order)
same, replayed = again.json() == placed, again.headers["Idempotent-Replayed"]
print(f"repeated: same order {json.dumps(same)}, replayed {replayed}")
event = received.get(timeout=30)
print(f"webhook: {event['type']}, same order {json.dumps(event['data']['id'] == placed['id'])}")
call("DELETE", f"/webhooks/{webhook['id']}").raise_for_status()

# Order more than there is.
call("POST", "/orders", json=order).raise_for_status()
error = call("POST", "/orders", json=order).json()["error"]
print(f"rejected: {error['code']}, available {error['details'][0]['available']}")

# Read all pages of a list.
orders = list(pages("/orders", customer_id=customer, limit=1))
print(f"listed: {len(orders)} orders")

# Start a job, follow it to its end, and fetch its result.
started = call("POST", "/process", json={"kind": "report.export", "payload": {}}).raise_for_status()
job_path = started.headers["Location"]
while (job := call("GET", job_path).raise_for_status()).json()["status"] in {"queued", "running"}:
    time.sleep(float(job.headers["Retry-After"]))
csv = call("GET", f"{job_path}/output").raise_for_status().text
print(f"job: {job.json()['status']}, {csv.splitlines()[0]}")
