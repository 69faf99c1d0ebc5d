"""foundation

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("id ~ '^[A-Za-z0-9]{12}$'", name=op.f("ck_api_keys_id")),
        sa.CheckConstraint("cardinality(scopes) > 0", name=op.f("ck_api_keys_scopes")),
        sa.CheckConstraint("char_length(name) between 1 and 100", name=op.f("ck_api_keys_name")),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("ck_api_keys_hash")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("type ~ '^[a-z_]+[.][a-z_]+$'", name=op.f("ck_events_type")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_table(
        "items",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("price", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("attributes", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "updated_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_items_currency")),
        sa.CheckConstraint("jsonb_typeof(attributes) = 'object'", name=op.f("ck_items_attributes")),
        sa.CheckConstraint("price >= 0 and price <> 'NaN'", name=op.f("ck_items_price")),
        sa.CheckConstraint("sku ~ '^[A-Za-z0-9._-]{1,64}$'", name=op.f("ck_items_sku")),
        sa.CheckConstraint("char_length(description) <= 4000", name=op.f("ck_items_description")),
        sa.CheckConstraint("char_length(name) between 1 and 200", name=op.f("ck_items_name")),
        sa.CheckConstraint("quantity >= 0", name=op.f("ck_items_quantity")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_items_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.UniqueConstraint("sku", name=op.f("uq_items_sku")),
    )
    op.create_table(
        "orders",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("total", sa.Numeric(precision=24, scale=2), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_orders_currency")),
        sa.CheckConstraint("status in ('placed', 'fulfilled', 'cancelled')", name=op.f("ck_orders_status")),
        sa.CheckConstraint("total >= 0 and total <> 'NaN'", name=op.f("ck_orders_total")),
        sa.CheckConstraint("char_length(customer_id) between 1 and 128", name=op.f("ck_orders_customer_id")),
        sa.CheckConstraint("char_length(reference) between 1 and 200", name=op.f("ck_orders_reference")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_orders_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
    )
    op.create_index("ix_orders_customer_id_id", "orders", ["customer_id", "id"], unique=False)
    op.create_index("ix_orders_status_id", "orders", ["status", "id"], unique=False)
    op.create_table(
        "resources",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "updated_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("id ~ '^[A-Za-z0-9._-]{1,64}$'", name=op.f("ck_resources_id")),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("ck_resources_metadata")),
        sa.CheckConstraint("char_length(status) between 1 and 64", name=op.f("ck_resources_status")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_resources_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resources")),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("octet_length(value) = 32", name=op.f("ck_secrets_value")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "movements",
        sa.Column("item_id", sa.UUID(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("delta", sa.Integer(), nullable=False),
        sa.Column("resulting_quantity", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("order_id", sa.UUID(), nullable=True),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint(
            "(cause in ('order', 'cancel')) = (order_id is not null)", name=op.f("ck_movements_order_id")
        ),
        sa.CheckConstraint(
            "cause in ('order', 'cancel', 'adjust', 'set', 'import')", name=op.f("ck_movements_cause")
        ),
        sa.CheckConstraint("delta <> 0", name=op.f("ck_movements_delta")),
        sa.CheckConstraint("resulting_quantity >= 0", name=op.f("ck_movements_resulting_quantity")),
        sa.ForeignKeyConstraint(
            ["item_id"], ["items.id"], name=op.f("fk_movements_item_id_items"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("item_id", "version", name=op.f("pk_movements")),
    )
    op.create_table(
        "order_lines",
        sa.Column("order_id", sa.UUID(), nullable=False),
        sa.Column("line_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item_id", sa.UUID(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("unit_price", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("amount", sa.Numeric(precision=24, scale=2), nullable=False),
        sa.CheckConstraint("unit_price >= 0 and unit_price <> 'NaN'", name=op.f("ck_order_lines_unit_price")),
        sa.CheckConstraint("amount = unit_price * quantity", name=op.f("ck_order_lines_amount")),
        sa.CheckConstraint("quantity >= 1", name=op.f("ck_order_lines_quantity")),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_order_lines_item_id_items")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_lines_order_id_orders")),
        sa.PrimaryKeyConstraint("order_id", "line_no", name=op.f("pk_order_lines")),
    )
    op.create_index("ix_order_lines_item_id", "order_lines", ["item_id"], unique=False)
    op.create_table(
        "transactions",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("order_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=24, scale=2), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("amount >= 0 and amount <> 'NaN'", name=op.f("ck_transactions_amount")),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_transactions_currency")),
        sa.CheckConstraint("kind in ('sale', 'refund')", name=op.f("ck_transactions_kind")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_transactions_order_id_orders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transactions")),
        sa.UniqueConstraint("order_id", "kind", name="uq_transactions_order_id_kind"),
    )
    op.create_index("ix_transactions_created_at", "transactions", ["created_at"], unique=False)

    op.execute(
        "insert into secrets (name, value) values "
        "('pepper', sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))"
    )


def downgrade() -> None:

    op.drop_index("ix_transactions_created_at", table_name="transactions")
    op.drop_table("transactions")
    op.drop_index("ix_order_lines_item_id", table_name="order_lines")
    op.drop_table("order_lines")
    op.drop_table("movements")
    op.drop_table("secrets")
    op.drop_table("resources")
    op.drop_index("ix_orders_status_id", table_name="orders")
    op.drop_index("ix_orders_customer_id_id", table_name="orders")
    op.drop_table("orders")
    op.drop_table("items")
    op.drop_table("events")
    op.drop_table("api_keys")
