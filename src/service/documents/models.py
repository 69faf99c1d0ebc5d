"""Documents and their contents. Identical content is stored once."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, Text, func
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base


class Content(Base):
    """Content shared by one or more documents. It is deleted with the last of them."""

    __tablename__ = "contents"
    __table_args__ = (
        CheckConstraint("octet_length(sha256) = 32", name="sha256"),
        CheckConstraint("uses >= 0", name="uses"),
        Index("ix_contents_key", "key", unique=True),
    )

    sha256: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    key: Mapped[str] = mapped_column(Text)
    """The blob key. Keys are never reused, so deleting one cannot affect a later upload."""
    uses: Mapped[int] = mapped_column(Integer)


class Document(Base):
    __tablename__ = "documents"
    __table_args__ = (
        CheckConstraint("char_length(filename) between 1 and 255", name="filename"),
        CheckConstraint(
            "content_type in ('image/png', 'image/jpeg', 'application/pdf')", name="content_type"
        ),
        CheckConstraint("size_bytes > 0", name="size_bytes"),
        CheckConstraint("status in ('stored', 'ready', 'rejected')", name="status"),
        CheckConstraint("(status = 'rejected') = (reason is not null)", name="reason"),
        Index("ix_documents_sha256", "sha256"),
        Index("ix_documents_thumbnail", "thumbnail", unique=True),
    )

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True)
    filename: Mapped[str] = mapped_column(Text)
    content_type: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[bytes] = mapped_column(LargeBinary, ForeignKey("contents.sha256"))
    status: Mapped[str] = mapped_column(Text, server_default="stored")
    width: Mapped[int | None] = mapped_column(Integer)
    height: Mapped[int | None] = mapped_column(Integer)
    pages: Mapped[int | None] = mapped_column(Integer)
    thumbnail: Mapped[str | None] = mapped_column(Text)
    """The blob key of the thumbnail."""
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
