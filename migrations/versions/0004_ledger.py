"""ledger

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

APPEND_ONLY_TRIGGER = """
create trigger append_only before update or delete or truncate on transactions
for each statement execute function append_only()"""


def upgrade() -> None:
    op.execute(APPEND_ONLY_TRIGGER)


def downgrade() -> None:
    op.execute("drop trigger append_only on transactions")
