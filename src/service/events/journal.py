"""Who did something, and the one way to say so besides the statements that record their own event."""

from typing import Any, Literal

from msgspec import Struct

EventType = Literal[
    "order.placed",
    "order.cancelled",
    "order.fulfilled",
    "item.updated",
    "item.low_stock",
    "document.stored",
    "user.action",
    "job.finished",
]
"""What webhooks can be told of. The journal has more: every change any endpoint made."""


class Author(Struct, frozen=True):
    """On whose behalf something happens: the id of an API key, `cli`, or `worker`."""

    actor: str
    request_id: str | None = None


CLI = Author("cli")
WORKER = Author("worker")

INSERT_EVENT = """
insert into events (type, subject, actor, request_id, payload) values ($1, $2, $3, $4, $5::jsonb)"""


def event_arguments(type_: str, subject: object, author: Author, payload: dict[str, Any]) -> list[Any]:
    """The arguments of `INSERT_EVENT`."""
    return [type_, str(subject), author.actor, author.request_id, payload]


def diff(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What differs, as `{"status": {"from": "new", "to": "active"}}`."""
    return {
        name: {"from": before.get(name), "to": value}
        for name, value in after.items()
        if before.get(name) != value
    }
