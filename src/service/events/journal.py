"""Event types, the authors of changes, and the changes that an event carries."""

from typing import Any, Literal

from msgspec import Struct

from service.values import stored_form

EventType = Literal[
    "order.placed",
    "order.cancelled",
    "order.fulfilled",
    "item.created",
    "item.updated",
    "item.deleted",
    "item.low_stock",
    "item.back_in_stock",
    "document.stored",
    "document.ready",
    "document.rejected",
    "user.action",
    "job.finished",
]
"""Event types available to webhooks. The journal has more: it records every change.

A migration must add each new type to the function `owe_deliveries`, which expands `ALL_EVENTS`.
"""
ALL_EVENTS = "*"
"""Stands for every event type available to webhooks, now and later."""


class Author(Struct, frozen=True):
    """The author of a change: an API key id, `cli` or `worker`, and the request."""

    actor: str
    request_id: str | None = None


CLI = Author("cli")
WORKER = Author("worker")


def diff(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the changed fields, as `{"status": {"from": "new", "to": "active"}}`."""
    return {
        name: {"from": before.get(name), "to": value}
        for name, value in after.items()
        if stored_form(before.get(name)) != stored_form(value)
    }
