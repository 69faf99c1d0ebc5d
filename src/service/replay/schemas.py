"""API schemas of replays."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from service.constraints import Body
from service.values import Timestamp
from service.webhooks.schemas import Events


class ReplayCreate(Body, rename={"from_": "from"}):
    from_: Annotated[
        Timestamp,
        Meta(
            description="Only events at or after this time, which may be up to 30 days ago.",
            examples=["2026-11-27T00:00:00Z"],
        ),
    ]
    to: Annotated[
        Timestamp, Meta(description="Only events before this time.", examples=["2026-11-28T00:00:00Z"])
    ]
    events: Annotated[
        Events | None, Meta(description="Only events of these types; by default those of the webhook.")
    ] = None


class WebhookReplay(Struct, rename={"from_": "from"}):
    """The payload of the job."""

    webhook_id: UUID
    from_: datetime
    to: datetime
    events: list[str]


class Replayed(Struct):
    """The result of the job."""

    deliveries: int
