"""What jobs look like on the wire."""

from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Struct

from service.constraints import Body
from service.values import Count, Timestamp

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
KindName = Annotated[str, Meta(examples=["report.export"])]
Payload = Annotated[
    Any,
    Meta(
        description="What this kind of job takes; what is wrong with it is listed field by field.",
        extra_json_schema={"type": "object"},
    ),
]

FINAL_STATUSES = frozenset(("succeeded", "failed", "cancelled"))


class NewJob(Body):
    kind: KindName
    payload: Payload


class Queued(Struct):
    id: UUID
    status: Literal["queued"] = "queued"


class Job(Struct):  # in the order of `statements.COLUMNS`
    id: UUID
    kind: KindName
    status: Status
    attempts: Count
    """How often it was begun."""
    progress: Annotated[int, Meta(ge=0, le=100)]
    result: Any
    error: str | None
    """Why it failed; while it is queued, why the attempt before did."""
    created_at: Timestamp
    started_at: Timestamp | None
    """When the latest attempt began."""
    finished_at: Timestamp | None

    @property
    def ended(self) -> bool:
        return self.status in FINAL_STATUSES


class Output(Struct):
    """A blob that a job's result names."""

    key: str
    filename: str
    content_type: str
    size_bytes: Count
