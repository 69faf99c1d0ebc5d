"""API schemas of resources."""

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, Struct, UnsetType

from service.constraints import Body, json_object
from service.values import Timestamp, Version, path_id_pattern

METADATA_BYTES_MAX = 65_536

RESOURCE_ID = path_id_pattern("A-Za-z0-9._-", 64)
ResourceId = Annotated[
    str,
    Meta(
        pattern=RESOURCE_ID,
        examples=["printer-3"],
        extra={"expected": '1 to 64 letters, digits, ".", "_" or "-", and not "." or ".."'},
    ),
]
Status = Annotated[str, Meta(min_length=1, max_length=64, examples=["active"])]


Metadata = Annotated[dict[str, Any], json_object(METADATA_BYTES_MAX)]
"""A JSON object of at most 64 KiB; numbers keep all digits."""


class ResourcePut(Body):
    status: Status
    metadata: Metadata | None = None


class ResourcePatch(Body):
    """Fields to change. An omitted field keeps its value; null clears it."""

    json_schema: ClassVar = {"minProperties": 1}

    status: Status | UnsetType = UNSET
    metadata: Metadata | None | UnsetType = UNSET


class Resource(Struct):
    id: ResourceId
    status: Status
    metadata: Metadata | None
    version: Version
    created_at: Timestamp
    updated_at: Timestamp


class Updated(Struct):
    """The fields that were sent, with their new values."""

    status: Status | UnsetType = UNSET
    metadata: Metadata | None | UnsetType = UNSET


class ResourceUpdated(Struct):
    updated: Updated
    resource: Resource
