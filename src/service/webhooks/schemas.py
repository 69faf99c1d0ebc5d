"""API schemas of webhooks and their deliveries."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, get_args
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from service.constraints import Body
from service.events.journal import EventType
from service.values import Count, Timestamp, Version
from service.webhooks.url import url_problem


def events_problem(events: Sequence[str]) -> str | None:
    return "must not repeat an event" if len(set(events)) < len(events) else None


Url = Annotated[
    str,
    Meta(
        # No user name, no fragment, and ASCII behind the host.
        pattern=r'^https?://[^\x00-,/;-@\\^`{-\x7f]+([/?][!-"$-~]*)?\Z',
        max_length=2000,
        examples=["https://shop.example/hooks"],
        extra={
            "rule": url_problem,
            "expected": "an http or https URL without user name and fragment, whose path and query are ASCII",
        },
    ),
]
Events = Annotated[
    list[EventType | Literal["*"]],
    Meta(
        min_length=1,
        max_length=len(get_args(EventType)) + 1,
        description="Event types; `*` is all of them, also those added later.",
        examples=[["order.placed", "item.low_stock"]],
        extra={"rule": events_problem},
        extra_json_schema={"uniqueItems": True},
    ),
]
Secret = Annotated[str, Meta(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])]


class WebhookCreate(Body):
    url: Url
    events: Events


class WebhookPatch(Body):
    """Fields to change. An omitted field keeps its value."""

    json_schema: ClassVar = {"minProperties": 1}

    url: Url | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class Webhook(Struct):
    id: UUID
    url: Url
    events: Events
    enabled: Annotated[
        bool, Meta(description="If false, nothing is sent and new events are not stored for this webhook.")
    ]
    disabled_reason: Annotated[
        str | None, Meta(description="Why the service disabled the webhook; null if a client did.")
    ]
    version: Version
    created_at: Timestamp
    updated_at: Timestamp
    secret: Annotated[
        Secret | UnsetType,
        Meta(description="Signing secret (Standard Webhooks 1.0); only in the reply that created it."),
    ] = UNSET


DeliveryStatus = Literal["pending", "delivered", "failed"]


class Attempt(Struct):
    at: Timestamp
    status_code: Annotated[Count | None, Meta(description="Status of the reply; null if there was none.")]
    ms: Annotated[Count, Meta(description="Duration in milliseconds.")]
    error: Annotated[str | None, Meta(description="Why the attempt failed; null if it succeeded.")]


class Delivery(Struct):
    id: UUID
    event_id: Annotated[UUID, Meta(description="Sent to the receiver as `webhook-id`.")]
    event_type: str
    status: DeliveryStatus
    due_at: Annotated[Timestamp | None, Meta(description="Time of the next attempt; null if there is none.")]
    attempts: list[Attempt]
    finished_at: Timestamp | None
    created_at: Annotated[Timestamp, Meta(description="Time of the event.")]
