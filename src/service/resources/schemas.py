"""What resources look like on the wire."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from service.values import Timestamp

ResourceId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z", examples=["printer-3"])]
Status = Annotated[str, Meta(min_length=1, max_length=64, examples=["active"])]
Metadata = dict[str, Any]


class ResourcePut(Struct, forbid_unknown_fields=True):
    status: Status
    metadata: Metadata | None = None


class ResourcePatch(Struct, forbid_unknown_fields=True):
    """Omitted is not null."""

    status: Status | UnsetType = UNSET
    metadata: Metadata | None | UnsetType = UNSET


class Resource(Struct):
    id: ResourceId
    status: Status
    metadata: Metadata | None
    version: int
    created_at: Timestamp
    updated_at: Timestamp


class Updated(Struct):
    """Only the fields that were sent, with the values they have now."""

    status: Status | UnsetType = UNSET
    metadata: Metadata | None | UnsetType = UNSET


class ResourceUpdated(Struct):
    updated: Updated
    resource: Resource
