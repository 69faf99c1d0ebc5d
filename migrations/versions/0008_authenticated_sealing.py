"""authenticated sealing, net item sales

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Item rollups now deduct cancellations. The next run closes all days again; until then, reports read the
# ledger.
REOPEN_BOOKS = "update books set closed_until = '0001-01-01 00:00+00'"


def upgrade() -> None:
    op.add_column("sealing", sa.Column("mac", sa.LargeBinary(), nullable=True))
    op.execute(REOPEN_BOOKS)


def downgrade() -> None:
    op.drop_column("sealing", "mac")
    op.execute(REOPEN_BOOKS)
