"""Hooks for schemathesis: valid files, and rejections that a schema cannot express."""

from itertools import count
from typing import Any
from urllib.parse import unquote, urlsplit

import schemathesis
from hypothesis import strategies
from samples import TYPES, valid

from tests.support.reply_assertions import LEAK

STATE = {
    *("INVALID_CURSOR", "PRECONDITION_FAILED", "IDEMPOTENCY_MISMATCH", "RANGE_NOT_SATISFIABLE"),
    *("UNKNOWN_ITEM", "MIXED_CURRENCIES"),
}
"""Codes of well-formed requests that are rejected for the state of the service."""
RULES = (
    *("must be at most", "must have a valid host", "must be a valid URL"),
    *("must not contain NUL characters", "must not have NUL characters", "numbers must be between"),
    *(
        "must be before `to`",
        "`from` must be before `to`",
        "must be later than from",
        "is outside the calendar",
    ),
    *("must be an RFC 3339 time or date", "`to` must be after `from`"),
    *("must have either item_id or sku", "must have either delta, or quantity and expected"),
    *(
        "would raise the quantity above",
        "names the same item as",
        "must have no decimals",
        "does not fit the price",
    ),
)
"""Beginnings of messages about rules that JSON Schema cannot express, or only unportably."""
NOT_WHOLE = {"must be a whole number", "must be a whole number or null"}
"""The messages for 5.0, which is an integer to JSON Schema."""
calls = count()
REQUIRED_HEADERS = {401: "www-authenticate", 405: "allow", 429: "retry-after", 503: "retry-after"}

for content_type in TYPES.values():
    files = [sample.content for sample in valid() if sample.content_type == content_type]
    schemathesis.openapi.media_type(content_type, strategies.sampled_from(files))


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Keep schemathesis from what takes most of its time and finds nothing.

    It would try every currency wherever there is one, and seek more distinct event types than exist.
    """
    schemas = raw_schema["components"]["schemas"]
    schemas["Currency"]["enum"] = ["EUR", "JPY", "USD"]
    for name in ("WebhookCreate", "WebhookPatch", "WebhookMergePatch"):
        del schemas[name]["properties"]["events"]["maxItems"]
    del schemas["ReplayCreate"]["properties"]["events"]["anyOf"][0]["maxItems"]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Send every other case without preconditions, keys and cursors, which random values never meet."""
    if next(calls) % 2 and case.meta is not None and case.meta.generation.mode.is_positive:
        for name in ("If-Match", "Idempotency-Key"):
            case.headers.pop(name, None)
        case.query.pop("cursor", None)


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Return whether a reported failure is one."""
    if failure.code == "ST301":  # a resource that can be read after its DELETE, which only cancels a job
        return not urlsplit(response.request.url).path.startswith("/jobs/")
    return failure.code != "ST202" or not (
        header(response, "x-error-code") in STATE or beyond_schema(response)
    )


def beyond_schema(response: Any) -> bool:
    """Return whether every invalid field violates one of the `RULES`."""
    if header(response, "x-error-code") != "VALIDATION_FAILED":
        return False
    messages = [detail["message"] for detail in response.json()["error"]["details"]]
    return all(message.startswith(RULES) or message in NOT_WHOLE for message in messages)


@schemathesis.check
def error_contract(ctx: Any, response: Any, case: Any) -> None:
    """Check that every reply has a request id, and every error the error contract with all its headers."""
    assert header(response, "x-request-id"), "a reply without X-Request-ID"
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    assert header(response, "content-type") == "application/json"
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() <= {"code", "message", "path", "request_id", "details"}
    assert error["code"] == header(response, "x-error-code")
    assert error["request_id"] == header(response, "x-request-id")
    assert error["path"] == unquote(urlsplit(response.request.url).path) or response.status_code == 431
    assert not LEAK.search(error["message"]), error["message"]
    required = REQUIRED_HEADERS.get(response.status_code)
    assert required is None or header(response, required), f"{response.status_code} without {required}"


def header(response: Any, name: str) -> str | None:
    return next(iter(response.headers.get(name, [])), None)
