"""Hash chain of the journal: each link covers an event and the previous link."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, CheckConstraint, LargeBinary, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base


class SealedEvent(Base):
    """One link of the chain.

    A trigger rejects updates and deletes, and the chain reveals a change made past the trigger.
    """

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
    """The sealing state, a watermark bound to the end of the chain; a table with one row."""

    __tablename__ = "sealing"
    __table_args__ = (
        CheckConstraint("id", name="id"),
        CheckConstraint("octet_length(pruned_hash) = 32", name="pruned_hash"),
    )

    id: Mapped[bool] = mapped_column(Boolean, primary_key=True)
    watermark: Mapped[datetime] = mapped_column("settled_at", TIMESTAMP(timezone=True))
    """Every event recorded before this time is sealed, and no open transaction can add another."""
    pruned_position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """The last seal whose event was pruned, or 0. Retained, since the verifiable chain begins there."""
    pruned_hash: Mapped[bytes] = mapped_column(
        LargeBinary, server_default=text("decode(repeat('00', 32), 'hex')")
    )
    pruned_id: Mapped[UUID] = mapped_column(PGUUID, server_default=str(UUID(int=0)))
    """The newest id of a pruned event. All other events have newer ones."""
    mac: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Authenticates this row and the end of the chain with the chain's key; null before the first seal."""
