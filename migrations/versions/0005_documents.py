"""documents

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "contents",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("ck_contents_sha256")),
        sa.CheckConstraint("uses >= 0", name=op.f("ck_contents_uses")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_contents")),
    )
    op.create_index("ix_contents_key", "contents", ["key"], unique=True)
    op.create_table(
        "documents",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), server_default="stored", nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("pages", sa.Integer(), nullable=True),
        sa.Column("thumbnail", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("(status = 'rejected') = (reason is not null)", name=op.f("ck_documents_reason")),
        sa.CheckConstraint(
            "content_type in ('image/png', 'image/jpeg', 'application/pdf')",
            name=op.f("ck_documents_content_type"),
        ),
        sa.CheckConstraint("status in ('stored', 'ready', 'rejected')", name=op.f("ck_documents_status")),
        sa.CheckConstraint("char_length(filename) between 1 and 255", name=op.f("ck_documents_filename")),
        sa.CheckConstraint("size_bytes > 0", name=op.f("ck_documents_size_bytes")),
        sa.ForeignKeyConstraint(["sha256"], ["contents.sha256"], name=op.f("fk_documents_sha256_contents")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_documents")),
    )
    op.create_index("ix_documents_sha256", "documents", ["sha256"], unique=False)
    op.create_index("ix_documents_thumbnail", "documents", ["thumbnail"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_documents_thumbnail", table_name="documents")
    op.drop_index("ix_documents_sha256", table_name="documents")
    op.drop_table("documents")
    op.drop_index("ix_contents_key", table_name="contents")
    op.drop_table("contents")
