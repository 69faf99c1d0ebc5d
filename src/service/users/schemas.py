"""API schemas of users' actions."""

from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Struct

from service.constraints import Body, json_object
from service.values import Timestamp, path_id_pattern

METADATA_BYTES_MAX = 16_384

USER_ID = path_id_pattern("A-Za-z0-9._@:-", 128)
KnownUserId = Annotated[
    str,
    Meta(
        pattern=USER_ID,
        examples=["ann"],
        extra={"expected": '1 to 128 letters, digits, ".", "_", "@", ":" or "-", and not "." or ".."'},
    ),
]
ActionName = Annotated[str, Meta(min_length=1, max_length=100, examples=["login"])]


Metadata = Annotated[dict[str, Any], json_object(METADATA_BYTES_MAX)]
"""A JSON object of at most 16 KiB; numbers keep all digits."""


class ActionCreate(Body):
    action: ActionName
    metadata: Metadata | None = None


class ActionCompleted(Struct):
    id: UUID
    status: Literal["action_completed"] = "action_completed"


class Action(Struct):
    id: UUID
    user_id: str
    action: ActionName
    metadata: Metadata | None
    created_at: Timestamp
