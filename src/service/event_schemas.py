"""OpenAPI `webhooks`: the payload of every event type that a webhook can subscribe to."""

from typing import Annotated, Any
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from service.events.journal import EventType
from service.http.json_schema import REF, Json, schema_name
from service.items.schemas import (
    Archived,
    Attributes,
    Description,
    Item,
    ItemStock,
    LowStockAt,
    Name,
    Quantity,
    Sku,
)
from service.jobs.schemas import KindName
from service.orders.schemas import Order, OrderPlacedEvent
from service.users.schemas import ActionName, Metadata
from service.values import Count, Currency, Money, Version

Changes = Annotated[dict[str, Any], Meta(description='Each changed field, as `{"from": …, "to": …}`.')]


class OrderChangedEvent(Order):
    changes: Changes


class OrderCancelledEvent(OrderChangedEvent):
    stock: Annotated[list[ItemStock], Meta(description="The stock of each item after the cancellation.")]


class ItemUpdatedEvent(Struct):
    id: UUID
    version: Version
    changes: Changes


class ItemDeletedEvent(Struct):
    """The last state of the item."""

    id: UUID
    sku: Sku
    name: Name
    description: Description | None
    price: Money
    currency: Currency
    quantity: Quantity
    attributes: Attributes | None
    archived: Archived
    low_stock_at: LowStockAt


class ItemStockEvent(Struct):
    id: UUID
    sku: Sku
    quantity: Quantity


class DocumentStoredEvent(Struct):
    id: UUID
    filename: str
    content_type: str
    size_bytes: Count
    sha256: str


class DocumentReadyEvent(Struct):
    id: UUID
    changes: Changes
    width: Annotated[Count | UnsetType, Meta(description="Width in pixels; only of an image.")] = UNSET
    height: Annotated[Count | UnsetType, Meta(description="Height in pixels; only of an image.")] = UNSET
    pages: Annotated[Count | UnsetType, Meta(description="Number of pages; only of a PDF.")] = UNSET


class DocumentRejectedEvent(Struct):
    id: UUID
    reason: Annotated[str, Meta(description="Why the file was rejected.")]
    changes: Changes


class UserActionEvent(Struct):
    user_id: Annotated[str, Meta(examples=["ann"])]
    action: ActionName
    metadata: Metadata | None


class JobFinishedEvent(Struct):
    id: UUID
    kind: KindName
    status: Annotated[str, Meta(description="`succeeded`, `failed` or `cancelled`.", examples=["succeeded"])]
    attempts: Count
    error: str | None


EVENTS: dict[EventType, tuple[str, type[Struct]]] = {
    "order.placed": ("An order was placed", OrderPlacedEvent),
    "order.cancelled": ("An order was cancelled", OrderCancelledEvent),
    "order.fulfilled": ("An order was fulfilled", OrderChangedEvent),
    "item.created": ("An item was created", Item),
    "item.updated": ("A field or the stock of an item changed, except by an order", ItemUpdatedEvent),
    "item.deleted": ("An item was deleted", ItemDeletedEvent),
    "item.low_stock": ("The stock of an item fell to its threshold or to 0", ItemStockEvent),
    "item.back_in_stock": ("The stock of an item rose from 0", ItemStockEvent),
    "document.stored": ("A document was uploaded", DocumentStoredEvent),
    "document.ready": ("A document was inspected and can be used", DocumentReadyEvent),
    "document.rejected": ("A document could not be decoded", DocumentRejectedEvent),
    "user.action": ("An action of a user was recorded", UserActionEvent),
    "job.finished": ("A job succeeded, failed or was cancelled", JobFinishedEvent),
}
HEADERS: dict[str, tuple[str, Json]] = {
    "webhook-id": ("The id of the event, the same for every attempt.", {"format": "uuid"}),
    "webhook-timestamp": ("Seconds since 1970 at this attempt.", {"pattern": "^[0-9]+$"}),
    "webhook-signature": (
        "One or more signatures (Standard Webhooks 1.0), separated by spaces.",
        {"pattern": "^v1,[A-Za-z0-9+/=]+( v1,[A-Za-z0-9+/=]+)*$"},
    ),
}


def webhooks() -> Json:
    """Return the `webhooks` of the document: what Depot sends, by event type."""
    return {type_: {"post": _operation(type_, *event)} for type_, event in EVENTS.items()}


def _operation(type_: EventType, summary: str, payload: type[Struct]) -> Json:
    name = "".join(part.capitalize() for part in type_.replace("_", ".").split("."))
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": [type_]},
            "timestamp": {"type": "string", "format": "date-time", "maxLength": 32},
            "data": {"$ref": REF + schema_name(payload)},
        },
        "required": ["type", "timestamp", "data"],
    }
    return {
        "operationId": f"on{name}",
        "summary": summary,
        "description": "Reply with any 2xx status within 15 seconds; otherwise Depot retries for three days.",
        "tags": ["Webhooks"],
        "security": [],
        "parameters": [_header(header, *about) for header, about in HEADERS.items()],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": "Received."}, "410": {"description": "Disable this webhook."}},
    }


def _header(name: str, description: str, schema: Json) -> Json:
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": description,
        "schema": {"type": "string", **schema},
    }
