"""The OpenAPI document is the one that the service follows, and its page works offline."""

import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import anyio
import pytest
from PIL import Image

from conftest import Client
from service import docs
from service.app import create_app
from service.database.database import Database
from service.docs import build_document
from service.documents.statements import RECORD_INSPECTION
from service.event_schemas import EVENTS
from service.events.journal import EventType
from service.settings import Settings
from tests.support.depot_command import DEPOT
from tests.support.openapi_document import operations
from tests.support.requirements import requires

Json = dict[str, Any]
JSON = "application/json"


@pytest.fixture(scope="module")
def described() -> Json:
    return build_document(create_app(Settings(database_url="postgresql://unused")))


async def test_the_document_served_is_the_one_the_command_prints(client: Client) -> None:
    reply = await client.get("/openapi.json")
    assert reply.headers["Content-Type"] == "application/json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPOT_")}
    printed = await anyio.run_process([str(DEPOT), "openapi"], env=environment)
    assert printed.stdout == reply.content + b"\n"
    assert json.loads(printed.stdout)["openapi"].startswith("3.1")


@pytest.mark.parametrize(
    ("accept", "status"), [("text/html,application/xhtml+xml,*/*;q=0.8", 302), ("*/*", 404), (JSON, 404)]
)
async def test_the_root_sends_browsers_to_the_page(client: Client, accept: str, status: int) -> None:
    reply = await client.get("/", headers={"Accept": accept}, follow_redirects=False)
    assert (reply.status_code, reply.headers.get("Location")) == (status, "/docs" if status == 302 else None)


async def test_no_foreign_script_runs_in_the_page_and_no_other_page_frames_it(client: Client) -> None:
    page = await client.get("/docs")
    policy = dict(rule.split(" ", 1) for rule in page.headers["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["script-src"]) == ("'none'", "'self'")
    assert policy["frame-ancestors"] == "'none'"
    assert page.headers["X-Frame-Options"] == "DENY"
    assert not re.search(r"<script>|<style>| on[a-z]+=|style=", page.text)


async def test_the_page_is_dark_where_the_browser_is(client: Client) -> None:
    assert "prefers-color-scheme: dark" in (await client.get("/docs/assets/docs.css")).text


EXECUTED = {
    "POST /items": 201,
    "PATCH /items/{item_id}": 200,
    "POST /items/{item_id}/stock": 200,
    "POST /stock": 200,
    "POST /orders": 201,
    "PATCH /orders/{order_id}": 200,
    "POST /orders/{order_id}/cancel": 200,
    "PUT /resources/{resource_id}": 201,
    "PATCH /resources/{resource_id}": 200,
    "POST /users/{user_id}/actions": 201,
    "POST /process": 202,
    "POST /webhooks": 201,
    "PATCH /webhooks/{webhook_id}": 200,
}
OF_FIXED_DAYS = {"POST /webhooks/{webhook_id}/replay"}
"""Operations that accept only recent times, while their example has fixed ones."""


async def test_every_example_of_a_request_can_be_executed(client: Client, described: Json) -> None:
    examples = {
        name: operation["requestBody"]["content"]
        for name, operation in operations(described)
        if "multipart/form-data"
        not in operation.get("requestBody", {}).get("content", {"multipart/form-data": 0})
    }
    names = {
        parameter["name"]: parameter["example"]
        for _, operation in operations(described)
        for parameter in operation["parameters"]
        if "example" in parameter
    }
    assert names == {"resource_id": "printer-3", "user_id": "ann"}
    assert examples.keys() - OF_FIXED_DAYS == EXECUTED.keys()
    for name, status in EXECUTED.items():
        method, path = name.split()
        for media_type, content in examples[name].items():
            body, headers = json.dumps(content["example"]), {"Content-Type": media_type}
            reply = await client.request(method, path.format(**names), content=body, headers=headers)
            assert reply.status_code == status, (name, content["example"], reply.text)
        created = reply.headers.get("Location", "").split("/")
        if len(created) == 3:
            names[created[1].removesuffix("s") + "_id"] = created[2]


async def record_inspections(database: Database, ready: UUID, rejected: UUID) -> None:
    await database.fetch(RECORD_INSPECTION, ready, "ready", 8, 8, None, None, None, "worker", None)
    damaged = (None, None, None, None, "The file is damaged")
    await database.fetch(RECORD_INSPECTION, rejected, "rejected", *damaged, "worker", None)


async def test_the_payload_of_every_event_is_described(
    client: Client, database: Database, described: Json
) -> None:
    assert described["webhooks"].keys() == set(get_args(EventType))
    item = (await client.post("/items", json={"sku": "A", "name": "A", "price": "1", "quantity": 9})).json()
    await client.patch(f"/items/{item['id']}", json={"name": "B", "quantity": 0})
    await client.patch(f"/items/{item['id']}", json={"quantity": 9})
    orders = [
        (
            await client.post("/orders", json={"customer_id": "c", "lines": [{"sku": "A", "quantity": 4}]})
        ).json()
        for _ in range(2)
    ]
    await client.post(f"/orders/{orders[0]['id']}/cancel")
    await client.post(f"/orders/{orders[1]['id']}/fulfil")
    await client.post("/users/ann/actions", json={"action": "login"})
    job = await client.post("/process", json={"kind": "report.export", "payload": {}})
    await client.delete(job.headers["Location"])
    unsold = (await client.post("/items", json={"sku": "B", "name": "B", "price": "1"})).json()
    await client.delete(f"/items/{unsold['id']}")
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    uploaded = [
        (await client.post("/documents", files={"file": (name, picture.getvalue(), "image/png")})).json()
        for name in ("a.png", "b.png")
    ]
    await record_inspections(database, *(UUID(document["id"]) for document in uploaded))
    rows = await database.fetch("select type, payload from events where type = any($1)", list(EVENTS))
    assert {row["type"] for row in rows} == EVENTS.keys()
    for row in rows:
        schema = described["components"]["schemas"][EVENTS[row["type"]][1].__name__]
        assert set(schema["required"]) <= row["payload"].keys() <= schema["properties"].keys(), row["type"]


async def test_the_page_and_all_it_loads_come_from_here(client: Client) -> None:
    page = await client.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href|url)\s*[=:]\s*"(?!data:)([^"]+)"', page.text)
    assert len(loaded) == 4
    for path in loaded:
        assert path.startswith("/")
        assert (await client.get(path)).status_code == 200
    assert "//" not in page.text.replace("<!doctype html>", "")


SWAGGER_UI = """
const changes = [];
let intercept;
const SwaggerUIBundle = ({responseInterceptor}) => {
  intercept = responseInterceptor;
  const changeParam = (operation, ...change) => changes.push([operation.join(" "), ...change]);
  return {specActions: {changeParam}};
};
%s
const [shown, ...replies] = JSON.parse(require("fs").readFileSync(0));
const {text} = intercept({url: "http://depot/openapi.json", text: JSON.stringify(shown)});
replies.forEach(intercept);
console.log(JSON.stringify({document: JSON.parse(text), changes}));
"""


def run_page_script(document: Json, *replies: Json) -> Json:
    """Run the script of the page in Node, with the part of Swagger UI that it uses."""
    script = SWAGGER_UI % Path(docs.__file__).with_name("docs.js").read_text()
    given = json.dumps([document, *replies]).encode()
    output: Json = json.loads(subprocess.check_output(["node", "--eval", script], input=given))
    return output


@requires("node")
def test_the_page_fills_in_the_ids_that_it_has_seen() -> None:
    document = {
        "paths": {
            "/items": {"get": {}},
            "/items/{item_id}": {"get": {}, "patch": {}},
            "/webhooks/{webhook_id}/deliveries/{delivery_id}/resend": {"post": {}},
        }
    }
    created = {
        "url": "http://depot/items",
        "ok": True,
        "headers": {"location": "/items/b"},
        "body": {"id": "b"},
    }
    rows = {"data": [{"id": "d"}, {"id": "c"}]}
    listed = {"url": "http://depot/webhooks/a/deliveries?limit=2", "ok": True, "headers": {}, "body": rows}
    refused = {"url": "http://depot/items", "ok": False, "headers": {}, "body": {"error": {}}}
    empty = {"url": "http://depot/items", "ok": True, "headers": {}, "body": {"data": []}}
    no_json = {"url": "http://depot/items", "ok": True, "headers": {}}
    assert run_page_script(document, created, listed, refused, empty, no_json)["changes"] == [
        ["/items/{item_id} get", "item_id", "path", "b", False],
        ["/items/{item_id} patch", "item_id", "path", "b", False],
        ["/webhooks/{webhook_id}/deliveries/{delivery_id}/resend post", "delivery_id", "path", "d", False],
    ]


@requires("node")
def test_the_example_of_a_replay_is_of_the_last_days_in_the_page(described: Json) -> None:
    old = json.loads(json.dumps(described).replace('"2026-', '"2020-'))
    shown = run_page_script(old)["document"]
    (operation,) = OF_FIXED_DAYS
    content = dict(operations(shown))[operation]["requestBody"]["content"][JSON]
    example = {name: datetime.fromisoformat(content["example"][name]) for name in ("from", "to")}
    assert timedelta() < datetime.now(UTC) - example["to"] < timedelta(days=1, minutes=1)
    assert example["to"] - example["from"] == timedelta(days=1)
