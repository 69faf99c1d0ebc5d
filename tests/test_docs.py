"""The OpenAPI document is complete enough to generate clients from, and its page works offline."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from conftest import Client
from service.app import create_app
from service.auth.keys import SCOPES
from service.docs import build_document
from service.settings import Settings
from tests.support.depot_command import DEPOT

Json = dict[str, Any]
METHODS = {"get", "put", "post", "patch", "delete"}


@pytest.fixture(scope="module")
def described() -> Json:
    return build_document(create_app(Settings(database_url="postgresql://unused")))


def operations(described: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in described["paths"].items():
        for method in methods.keys() & METHODS:
            yield f"{method.upper()} {path}", methods[method]


def nodes(node: Any) -> Iterator[Json]:
    """Every object of the document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from nodes(child)


def resolve(described: Json, node: Json) -> Json:
    while "$ref" in node:
        found: Any = described
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        node = found
    return node


def variants(described: Json, node: Json) -> Iterator[Json]:
    """A schema, or what it may be by `anyOf`."""
    node = resolve(described, node)
    for option in node.get("anyOf") or node.get("oneOf") or [node]:
        yield resolve(described, option)


def test_every_endpoint_of_the_contract_is_described(described: Json) -> None:
    assert {name for name, _ in operations(described)} >= {
        *("POST /items", "GET /items", "GET /items/{item_id}", "PATCH /items/{item_id}"),
        *("DELETE /items/{item_id}", "POST /items/{item_id}/stock", "GET /items/{item_id}/movements"),
        *("POST /orders", "GET /orders", "GET /orders/{order_id}"),
        *("PUT /resources/{resource_id}", "GET /resources/{resource_id}", "GET /resources"),
        *("PATCH /resources/{resource_id}", "DELETE /resources/{resource_id}"),
        *("GET /health", "GET /health/live", "GET /health/ready"),
    }


def test_every_operation_has_a_name_a_tag_and_a_summary(described: Json) -> None:
    known = {tag["name"] for tag in described["tags"]}
    names = [operation["operationId"] for _, operation in operations(described)]
    assert len(set(names)) == len(names)
    for name, operation in operations(described):
        assert re.fullmatch(r"[a-z]+[A-Za-z]*", operation["operationId"]), name
        assert operation["summary"], name
        assert operation["tags"], name
        assert set(operation["tags"]) <= known, name


def test_every_refusal_is_described_by_the_error_contract(described: Json) -> None:
    for name, operation in operations(described):
        refusals = {status: reply for status, reply in operation["responses"].items() if status[0] in "45"}
        assert "500" in refusals, name
        for status, reply in refusals.items():
            reply = resolve(described, reply)  # noqa: PLW2901
            described_as = {kind: body["schema"] for kind, body in reply["content"].items()}
            if not name.startswith("GET /health"):
                assert described_as["application/json"] == {"$ref": "#/components/schemas/Error"}, (
                    name,
                    status,
                )
            assert reply["headers"]["X-Error-Code"]["schema"]["enum"], (name, status)


def test_what_needs_a_key_says_so_with_its_scope(described: Json) -> None:
    for name, operation in operations(described):
        if name.startswith("GET /health"):
            assert not operation.get("security")
            continue
        ((scope,),) = (scheme["apiKey"] for scheme in operation["security"])
        assert scope in SCOPES, name
        assert f"`{scope}`" in operation["description"]
        assert operation["responses"].keys() >= {"401", "403", "422", "503"}, name
    assert described["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"


def test_request_bodies_take_no_unknown_field(described: Json) -> None:
    bodies = [
        operation["requestBody"] for _, operation in operations(described) if "requestBody" in operation
    ]
    assert len(bodies) >= 5
    for body in bodies:
        for content in body["content"].values():
            for schema in variants(described, content["schema"]):
                assert schema["additionalProperties"] is False
                for field in schema["properties"].values():
                    for nested in variants(described, field.get("items", field)):
                        assert "properties" not in nested or nested["additionalProperties"] is False


def test_a_patch_describes_its_bounds_and_what_may_be_null(described: Json) -> None:
    schema = described["components"]["schemas"]["ItemPatch"]
    fields = schema["properties"]
    assert not schema.get("required")
    assert (
        "required" not in described["components"]["schemas"]["ItemPatch"]
        or not described["components"]["schemas"]["ItemPatch"]["required"]
    )

    def facets(name: str) -> Json:
        return {key: value for option in variants(described, fields[name]) for key, value in option.items()}

    assert facets("sku")["pattern"] == "^[A-Za-z0-9._-]{1,64}$"
    assert (facets("name")["minLength"], facets("name")["maxLength"]) == (1, 200)
    assert facets("description")["maxLength"] == 4000
    assert (facets("quantity")["minimum"], facets("quantity")["maximum"]) == (0, 2_147_483_647)
    assert "pattern" in facets("price")
    assert "EUR" in facets("currency")["enum"]
    nullable = {n for n in fields if any(o.get("type") == "null" for o in variants(described, fields[n]))}
    assert nullable == {"description", "attributes"}


def test_a_patch_may_be_a_merge_patch(described: Json) -> None:
    for path in ("/items/{item_id}", "/resources/{resource_id}"):
        content = described["paths"][path]["patch"]["requestBody"]["content"]
        assert content.keys() == {"application/json", "application/merge-patch+json"}


def test_query_parameters_describe_their_bounds(described: Json) -> None:
    parameters = {p["name"]: p for p in described["paths"]["/items"]["get"]["parameters"]}
    assert parameters.keys() == {"sku", "q", "in_stock", "limit", "cursor"}
    limit = parameters["limit"]["schema"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, 200, 50)
    assert not any(parameter.get("required") for parameter in parameters.values())


def test_conditional_requests_are_described(described: Json) -> None:
    item = described["paths"]["/items/{item_id}"]
    assert "304" in item["get"]["responses"]
    for method in ("patch", "delete"):
        named = [resolve(described, parameter)["name"] for parameter in item[method]["parameters"]]
        assert "If-Match" in named
        assert "412" in item[method]["responses"]


def test_every_reference_resolves(described: Json) -> None:
    references = [node for node in nodes(described) if isinstance(node.get("$ref"), str)]
    assert len(references) > 50
    for node in references:
        assert resolve(described, node)


def test_no_pattern_is_pythons_own_dialect(described: Json) -> None:
    patterns = [node["pattern"] for node in nodes(described) if isinstance(node.get("pattern"), str)]
    assert patterns
    assert not [pattern for pattern in patterns if r"\Z" in pattern or "(?P" in pattern]


async def test_the_document_served_is_the_one_the_command_prints(client: Client) -> None:
    reply = await client.get("/openapi.json")
    assert reply.headers["Content-Type"] == "application/json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPOT_")}
    printed = await anyio.run_process([str(DEPOT), "openapi"], env=environment)
    assert printed.stdout == reply.content + b"\n"
    assert json.loads(printed.stdout)["openapi"].startswith("3.1")


async def test_the_page_and_all_it_loads_come_from_here(client: Client) -> None:
    page = await client.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href|url)\s*[=:]\s*"([^"]+)"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        assert path.startswith("/")
        assert (await client.get(path)).status_code == 200
    assert "//" not in page.text.replace("<!doctype html>", "")


def test_fields_say_what_they_mean_and_replies_hold_all_of_theirs(described: Json) -> None:
    schemas = described["components"]["schemas"]
    assert schemas["Delivery"]["properties"]["event_id"]["description"].startswith("What the receiver knows")
    assert schemas["ActionCompleted"]["required"] == ["id", "status"]
    assert "secret" not in schemas["Webhook"]["required"]
    assert schemas["ItemCreate"]["properties"]["currency"]["$ref"] == "#/components/schemas/Currency"


def test_rules_of_whole_objects_are_described(described: Json) -> None:
    schemas = described["components"]["schemas"]
    assert all(schemas[name]["minProperties"] == 1 for name in ("ItemPatch", "ResourcePatch", "WebhookPatch"))
    assert (schemas["NewLine"]["minProperties"], schemas["NewLine"]["maxProperties"]) == (2, 2)
    jobs = schemas["NewJob"]
    assert jobs["discriminator"]["mapping"].keys() == {"report.export", "catalog.import", "document.inspect"}
    assert len(list(variants(described, jobs))) == 3


def test_replies_describe_their_headers_and_files_their_types(described: Json) -> None:
    paths = described["paths"]
    created = paths["/items"]["post"]["responses"]["201"]["headers"]
    assert created.keys() == {"X-Request-ID", "ETag", "Location", "Idempotent-Replayed", "RateLimit"}
    assert paths["/process"]["post"]["responses"]["202"]["headers"].keys() >= {"Location"}
    assert paths["/resources/{resource_id}"]["put"]["responses"].keys() >= {"200", "201"}
    encoding = paths["/upload"]["post"]["requestBody"]["content"]["multipart/form-data"]["encoding"]
    assert encoding["file"]["contentType"] == "image/png"
    content = paths["/documents/{document_id}/content"]["get"]
    assert content["responses"].keys() >= {"200", "206", "304", "416"}
    assert content["responses"]["200"]["content"].keys() == {"image/png", "image/jpeg", "application/pdf"}
    unauthenticated = described["components"]["responses"]["Unauthenticated"]
    assert unauthenticated["headers"].keys() == {"X-Request-ID", "WWW-Authenticate", "X-Error-Code"}
