"""The OpenAPI document is complete enough to generate clients from."""

import re
from typing import Any, get_args

import msgspec
import pytest

from service.app import create_app
from service.auth.keys import SCOPES
from service.docs import build_document
from service.events.journal import EventType
from service.http.error_responses import Error, Problem
from service.settings import Settings
from tests.support.openapi_document import nodes, operations, resolve, variants
from tests.test_error_codes import CONTRACT

Json = dict[str, Any]
JSON = "application/json"


@pytest.fixture(scope="module")
def described() -> Json:
    return build_document(create_app(Settings(database_url="postgresql://unused")))


def test_every_endpoint_of_the_contract_is_described(described: Json) -> None:
    assert {name for name, _ in operations(described)} >= {
        *("POST /items", "GET /items", "GET /items/{item_id}", "PATCH /items/{item_id}"),
        *("DELETE /items/{item_id}", "POST /items/{item_id}/stock", "GET /items/{item_id}/movements"),
        *("POST /orders", "GET /orders", "GET /orders/{order_id}"),
        *("PUT /resources/{resource_id}", "GET /resources/{resource_id}", "GET /resources"),
        *("PATCH /resources/{resource_id}", "DELETE /resources/{resource_id}"),
        *("GET /health", "GET /health/live", "GET /health/ready"),
    }


OPERATION_IDS = """
adjustStock adjustStocks cancelJob cancelOrder createItem createWebhook deleteDocument deleteItem
deleteResource deleteWebhook followJob fulfilOrder fulfillOrder getAction getContent getDocument
getFinancialReport getHealth getItem getJob getKey getLiveness getMetrics getOrder getOutput
getReadiness getResource getThumbnail getWebhook listActions listAudit listDeliveries listDocuments
listEvents listItems listJobs listMovements listOrders listResources listWebhooks placeOrder process
putResource recordAction replayWebhook requestJobCancellation resendDelivery retryJob rotateSecret
storeDocument testWebhook updateItem updateOrder updateResource updateWebhook upload
"""
"""Names of methods in generated clients. They come from names of handlers, and never change."""


def test_no_operation_changes_its_name(described: Json) -> None:
    names = {operation["operationId"] for _, operation in operations(described)}
    assert set(OPERATION_IDS.split()) - names == set()


def test_every_operation_has_a_name_a_tag_and_a_summary(described: Json) -> None:
    known = {tag["name"] for tag in described["tags"]}
    names = [operation["operationId"] for _, operation in operations(described)]
    assert len(set(names)) == len(names)
    for name, operation in operations(described):
        assert re.fullmatch(r"[a-z]+[A-Za-z]*", operation["operationId"]), name
        assert operation["summary"], name
        assert operation["tags"], name
        assert set(operation["tags"]) <= known, name


def test_every_error_reply_is_described_by_the_error_contract(described: Json) -> None:
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


def test_an_operation_states_the_scope_it_requires(described: Json) -> None:
    for name, operation in operations(described):
        if name.startswith("GET /health"):
            assert not operation.get("security")
            continue
        if name in {"GET /key", "GET /events"}:
            assert operation["security"] == [{"apiKey": []}]
            assert "Every valid API key may call it." in operation["description"]
            continue
        ((scope,),) = (scheme["apiKey"] for scheme in operation["security"])
        assert scope in SCOPES, name
        assert f"`{scope}`" in operation["description"]
        assert operation["responses"].keys() >= {"401", "403", "422", "503"}, name
    assert described["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"


def test_request_bodies_reject_unknown_fields(described: Json) -> None:
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
    assert nullable == {"description", "attributes", "low_stock_at"}


def test_a_patch_may_be_a_merge_patch(described: Json) -> None:
    for path in ("/items/{item_id}", "/resources/{resource_id}"):
        content = described["paths"][path]["patch"]["requestBody"]["content"]
        assert content.keys() == {"application/json", "application/merge-patch+json"}
        plain, merge = (body["schema"]["$ref"] for body in content.values())
        assert merge == plain.removesuffix("Patch") + "MergePatch"


def test_query_parameters_describe_their_bounds(described: Json) -> None:
    parameters = {p["name"]: p for p in described["paths"]["/items"]["get"]["parameters"]}
    assert parameters.keys() == {"sku", "id", "q", "in_stock", "low_stock", "archived", "limit", "cursor"}
    sku, limit = parameters["sku"]["schema"], parameters["limit"]["schema"]
    assert (sku["maxItems"], sku["items"]["maxLength"]) == (100, 64)
    assert parameters["id"]["schema"]["items"]["format"] == "uuid"
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


def test_no_pattern_is_in_the_dialect_of_python(described: Json) -> None:
    patterns = [node["pattern"] for node in nodes(described) if isinstance(node.get("pattern"), str)]
    assert patterns
    assert not [pattern for pattern in patterns if r"\Z" in pattern or "(?P" in pattern]


def test_every_error_code_has_an_example(described: Json) -> None:
    seen = set()
    for reply in described["components"]["responses"].values():
        codes = set(reply["headers"]["X-Error-Code"]["schema"]["enum"])
        for media_type, content in reply["content"].items():
            assert content["examples"].keys() == codes
            for code, shown in content["examples"].items():
                wanted = Error if media_type == JSON else Problem
                error = msgspec.convert(shown["value"], wanted)
                assert code == (error.error.code if isinstance(error, Error) else error.code)
        seen |= codes
    assert {"INSUFFICIENT_STOCK", "VALIDATION_FAILED", "TIMED_OUT", "RATE_LIMITED"} <= seen


def test_event_types_are_an_enum_with_a_name(described: Json) -> None:
    schemas = described["components"]["schemas"]
    assert set(schemas["EventType"]["enum"]) == set(get_args(EventType))
    for name in ("Webhook", "WebhookCreate", "WebhookPatch", "WebhookMergePatch"):
        assert {"$ref": "#/components/schemas/EventType"} in nodes(schemas[name]["properties"]["events"]), (
            name
        )


def test_error_codes_are_an_enum(described: Json) -> None:
    known = {code for status, codes in CONTRACT.items() for code in codes.split() if status != 499}
    schemas = described["components"]["schemas"]
    assert set(schemas["ErrorCode"]["enum"]) == known
    for name in ("ErrorBody", "Problem"):
        assert schemas[name]["properties"]["code"] == {"$ref": "#/components/schemas/ErrorCode"}


def test_schemas_of_creations_follow_one_pattern(described: Json) -> None:
    schemas = described["components"]["schemas"]
    assert {"ItemCreate", "OrderCreate", "OrderLineCreate", "ActionCreate", "WebhookCreate", "JobCreate"} <= (
        schemas.keys()
    )
    assert not [name for name in schemas if name.startswith("New")]


def test_no_description_repeats_its_summary(described: Json) -> None:
    for name, operation in operations(described):
        assert operation["summary"] not in operation["description"], name
        assert operation["description"].strip(), name


def test_every_bound_of_a_request_is_published(described: Json) -> None:
    """And no other bound is published: nothing limits most texts of a reply."""
    for name, operation in operations(described):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for node in [found for s in variants(described, content["schema"]) for found in nodes(s)]:
                if node.get("type") == "string" and node.get("format") != "binary":
                    assert node.keys() & {"maxLength", "enum", "pattern", "format"}, (name, node)
                if node.get("type") == "array":
                    assert "maxItems" in node, (name, node)
    assert "maxLength" not in described["components"]["schemas"]["ErrorBody"]["properties"]["message"]


def test_fields_have_descriptions_and_replies_require_all_of_theirs(described: Json) -> None:
    schemas = described["components"]["schemas"]
    assert "`webhook-id`" in schemas["Delivery"]["properties"]["event_id"]["description"]
    assert schemas["ActionCompleted"]["required"] == ["id", "status"]
    assert "secret" not in schemas["Webhook"]["required"]
    assert schemas["ItemCreate"]["properties"]["currency"]["$ref"] == "#/components/schemas/Currency"


def test_rules_of_whole_objects_are_described(described: Json) -> None:
    schemas = described["components"]["schemas"]
    assert all(schemas[name]["minProperties"] == 1 for name in ("ItemPatch", "ResourcePatch", "WebhookPatch"))
    assert (schemas["OrderLineCreate"]["minProperties"], schemas["OrderLineCreate"]["maxProperties"]) == (
        2,
        2,
    )
    jobs = schemas["JobCreate"]
    assert jobs["discriminator"]["mapping"].keys() == {
        "report.export",
        "orders.export",
        "catalog.import",
        "document.inspect",
    }
    assert len(list(variants(described, jobs))) == 4


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
