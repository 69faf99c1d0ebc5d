"""The journal: what happened, who did it and what it changed, written in the transaction of the change.

One row is both the audit trail's entry and what webhooks are told. Rows are never changed or deleted (a
trigger refuses it), and one trigger owes a delivery to every webhook that asked for the type of event.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base
from service.events.journal import Author


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint("type ~ '^[a-z_]+[.][a-z_]+$'", name="type"),
        Index("ix_events_subject_id", "subject", "id"),
        Index("ix_events_actor_id", "actor", "id"),
        Index("ix_events_entity_id", text("split_part(type, '.', 1)"), "id"),
    )

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True, server_default=func.uuidv7())
    """What receivers know it by (`webhook-id`), whatever the number of tries."""
    type: Mapped[str] = mapped_column(Text)
    """What it happened to, and what: `item.updated`."""
    subject: Mapped[str] = mapped_column(Text)
    """The id of what it happened to."""
    actor: Mapped[str] = mapped_column(Text)
    """The id of the API key, `cli`, or `worker`."""
    request_id: Mapped[str | None] = mapped_column(Text)
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


def new_event(type_: str, subject: object, author: Author, payload: dict[str, Any]) -> Event:
    """For a session of plain records; statements insert theirs themselves."""
    return Event(
        type=type_,
        subject=str(subject),
        actor=author.actor,
        request_id=author.request_id,
        payload=payload,
    )
