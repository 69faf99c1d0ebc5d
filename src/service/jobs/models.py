"""Jobs as clients see them. The queue is PgQueuer's, in the schema `queue`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, Text, func
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="status"),
        CheckConstraint("progress between 0 and 100", name="progress"),
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("(status in ('queued', 'running')) = (finished_at is null)", name="finished_at"),
        Index("ix_jobs_status_id", "status", "id"),
    )

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    payload: Mapped[Any] = mapped_column(JSONB)
    status: Mapped[str] = mapped_column(Text, server_default="queued")
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    """The number of the current attempt. It is the fencing token: an older attempt can change nothing."""
    progress: Mapped[int] = mapped_column(Integer, server_default="0")
    result: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    queue_id: Mapped[int] = mapped_column(BigInteger)
    """The id of the queue entry that starts the job."""
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    started_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
