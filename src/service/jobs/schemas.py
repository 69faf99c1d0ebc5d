"""API schemas of jobs."""

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
        description="Payload of the job kind; every invalid field is reported.",
        extra_json_schema={"type": "object"},
    ),
]

FINAL_STATUSES = frozenset(("succeeded", "failed", "cancelled"))


class JobCreate(Body):
    kind: KindName
    payload: Payload


class Queued(Struct):
    id: UUID
    status: Literal["queued"] = "queued"


class Job(Struct):  # in the order of `statements.COLUMNS`
    id: UUID
    kind: KindName
    status: Status
    attempts: Annotated[
        Count,
        Meta(description="Number of attempts; those interrupted by a shutdown or an outage are not counted."),
    ]
    progress: Annotated[int, Meta(ge=0, le=100)]
    result: Any
    error: Annotated[
        str | None, Meta(description="Why the job failed; if it is queued, why its last attempt failed.")
    ]
    created_at: Timestamp
    started_at: Annotated[Timestamp | None, Meta(description="Start of the latest attempt.")]
    finished_at: Timestamp | None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_STATUSES


class JobSummary(Struct):  # in the order of `statements.SUMMARY_COLUMNS`
    """A job in a list, without its result, which can be large."""

    id: UUID
    kind: KindName
    status: Status
    attempts: Count
    """Number of attempts; those interrupted by a shutdown or an outage are not counted."""
    progress: Annotated[int, Meta(ge=0, le=100)]
    error: str | None
    """Why the job failed; if it is queued, why its last attempt failed."""
    created_at: Timestamp
    started_at: Timestamp | None
    """Start of the latest attempt."""
    finished_at: Timestamp | None


class Output(Struct):
    """The output file of a job."""

    key: str
    filename: str
    content_type: str
    size_bytes: Count
