"""webhook secrets: a webhook keeps every earlier secret that is still valid

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("webhooks", sa.Column("older_secrets", JSONB(), server_default="[]", nullable=False))


def downgrade() -> None:
    op.drop_column("webhooks", "older_secrets")
