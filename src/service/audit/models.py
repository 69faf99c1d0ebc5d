"""The chain over the journal: each link's hash covers an event and the link before it."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, CheckConstraint, LargeBinary, UniqueConstraint
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base


class SealedEvent(Base):
    """Never changed or deleted; a trigger refuses it, and the chain tells if somebody did it all the same."""

    __tablename__ = "seals"
    __table_args__ = (
        UniqueConstraint("event_id"),
        CheckConstraint("octet_length(hash) = 32", name="hash"),
    )

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """1, 2, 3 …"""
    event_id: Mapped[UUID] = mapped_column(PGUUID)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class SealingState(Base):
    """How far the journal is known to be sealed: one row."""

    __tablename__ = "sealing"
    __table_args__ = (CheckConstraint("id", name="id"),)

    id: Mapped[bool] = mapped_column(Boolean, primary_key=True)
    settled_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    """Whatever was recorded before this is sealed: no transaction that could add to it is left."""
