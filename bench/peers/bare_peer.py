"""The ceiling: what this machine, PostgreSQL and Python's fastest parts allow when nothing else is asked.

Raw ASGI, SQL by hand on an asyncpg pool, msgspec for JSON. No authentication, log, limits or error contract,
and no validation beyond msgspec's types: not a service to run, only one to compare with.
"""

import os
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypeAlias
from urllib.parse import parse_qs
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta, Struct
from uuid_utils.compat import uuid7

COLUMNS = """id, sku, name, description, price::text, currency, quantity, attributes, version,
  created_at, updated_at"""
READ = f"select {COLUMNS} from items where id = $1"
LIST = f"select {COLUMNS} from items where $1::uuid is null or id < $1 order by id desc limit $2"
PATCH = f"""
update items set name = coalesce($2, name), price = coalesce($3::text::numeric, price),
  version = version + 1, updated_at = now()
where id = $1 returning {COLUMNS}"""
LOCK = """
select id, sku, name, price, currency, quantity, version from items
where id = any($1::uuid[]) order by id for no key update"""
PLACE = """
with lines as (
  select * from unnest($7::int[], $8::uuid[], $9::text[], $10::text[], $11::int[], $12::numeric[],
      $13::numeric[], $14::int[], $15::int[])
    as t (line_no, item_id, sku, name, quantity, unit_price, amount, remaining, version)
), stocked as (
  update items i set quantity = remaining, version = lines.version, updated_at = $6
  from lines where i.id = lines.item_id
), placed as (
  insert into orders (id, status, customer_id, reference, currency, total, version, created_at)
  values ($1, 'placed', $2, $3, $4, $5, 1, $6)
), booked as (
  insert into transactions (id, order_id, kind, amount, currency, created_at)
  values ($16, $1, 'sale', $5, $4, $6)
), lined as (
  insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount)
  select $1, line_no, item_id, sku, name, quantity, unit_price, amount from lines
)
insert into movements (item_id, version, cause, delta, resulting_quantity, order_id, created_at)
select item_id, version, 'order', -quantity, remaining, $1, $6 from lines"""


class Item(Struct):
    id: UUID
    sku: str
    name: str
    description: str | None
    price: str
    currency: str
    quantity: int
    attributes: msgspec.Raw | None
    version: int
    created_at: datetime
    updated_at: datetime


class Page(Struct):
    data: list[Item]
    next_cursor: UUID | None


class ItemPatch(Struct):
    name: str | None = None
    price: str | None = None


class OrderLineCreate(Struct):
    item_id: UUID
    quantity: Annotated[int, Meta(ge=1)]


class OrderCreate(Struct):
    customer_id: str
    lines: Annotated[list[OrderLineCreate], Meta(min_length=1)]
    reference: str | None = None


class Stock(Struct):
    id: UUID
    sku: str
    name: str
    price: Decimal
    currency: str
    quantity: int
    version: int


class Line(Struct):
    item_id: UUID
    sku: str
    name: str
    quantity: int
    unit_price: Decimal
    amount: Decimal


class Order(Struct):
    id: UUID
    status: str
    customer_id: str
    reference: str | None
    currency: str
    total: Decimal
    lines: list[Line]
    version: int
    created_at: datetime


Reply: TypeAlias = tuple[int, bytes]

encode = msgspec.json.Encoder().encode
decode_patch = msgspec.json.Decoder(ItemPatch).decode
decode_order = msgspec.json.Decoder(OrderCreate).decode
NOT_FOUND = (404, b'{"error":{"code":"NOT_FOUND"}}')
SHORT = (409, b'{"error":{"code":"INSUFFICIENT_STOCK"}}')
UNKNOWN = (422, b'{"error":{"code":"UNKNOWN_ITEM"}}')


class Bare:
    """The ASGI application: four routes told apart by hand."""

    pool: "asyncpg.Pool[asyncpg.Record]"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        status, body = await self._route(scope, receive)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        size = int(os.environ["POOL_SIZE"])
        dsn = os.environ["DATABASE_URL"]
        self.pool = await asyncpg.create_pool(dsn, min_size=1, max_size=size, init=prepare, reset=keep)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _route(self, scope: Any, receive: Any) -> Reply:
        method, path = scope["method"], scope["path"]
        if method == "GET" and path.startswith("/items/"):
            return await self._get(UUID(path[7:]))
        if method == "PATCH" and path.startswith("/items/"):
            return await self._patch(UUID(path[7:]), decode_patch(await read(receive)))
        if method == "POST" and path == "/orders":
            return await self._place(decode_order(await read(receive)))
        if method == "GET" and path == "/items":
            return await self._list(parse_qs(scope["query_string"].decode()))
        return NOT_FOUND

    async def _get(self, item_id: UUID) -> Reply:
        row = await self.pool.fetchrow(READ, item_id)
        return NOT_FOUND if row is None else (200, encode(Item(*row)))

    async def _list(self, query: dict[str, list[str]]) -> Reply:
        limit, after = int(query.get("limit", ["50"])[0]), query.get("cursor")
        rows = await self.pool.fetch(LIST, after and UUID(after[0]), limit + 1)
        items = [Item(*row) for row in rows[:limit]]
        return 200, encode(Page(items, items[-1].id if len(rows) > limit else None))

    async def _patch(self, item_id: UUID, patch: ItemPatch) -> Reply:
        row = await self.pool.fetchrow(PATCH, item_id, patch.name, patch.price)
        return NOT_FOUND if row is None else (200, encode(Item(*row)))

    async def _place(self, new: OrderCreate) -> Reply:
        wanted: dict[UUID, int] = {}
        for line in new.lines:
            wanted[line.item_id] = wanted.get(line.item_id, 0) + line.quantity
        async with self.pool.acquire() as connection, connection.transaction():
            stock = [Stock(*row) for row in await connection.fetch(LOCK, list(wanted))]
            if len(stock) < len(wanted):
                return UNKNOWN
            if any(item.quantity < wanted[item.id] for item in stock):
                return SHORT
            order = sell(new, stock, wanted)
            await connection.execute(PLACE, *columns(order, stock))
        return 201, encode(order)


def sell(new: OrderCreate, stock: list[Stock], wanted: dict[UUID, int]) -> Order:
    lines = []
    for item in stock:
        quantity = wanted[item.id]
        item.quantity -= quantity
        item.version += 1
        lines.append(Line(item.id, item.sku, item.name, quantity, item.price, item.price * quantity))
    total = sum((line.amount for line in lines), Decimal(0))
    return Order(
        id=uuid7(),
        status="placed",
        customer_id=new.customer_id,
        reference=new.reference,
        currency=stock[0].currency,
        total=total,
        lines=lines,
        version=1,
        created_at=datetime.now(UTC),
    )


def columns(order: Order, stock: list[Stock]) -> list[object]:
    """The arguments of `PLACE`, in its order."""
    return [
        order.id,
        order.customer_id,
        order.reference,
        order.currency,
        order.total,
        order.created_at,
        list(range(1, len(order.lines) + 1)),
        [line.item_id for line in order.lines],
        [line.sku for line in order.lines],
        [line.name for line in order.lines],
        [line.quantity for line in order.lines],
        [line.unit_price for line in order.lines],
        [line.amount for line in order.lines],
        [item.quantity for item in stock],
        [item.version for item in stock],
        uuid7(),
    ]


async def read(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    return body


async def prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Stored JSON goes out as it is, unparsed."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=str, decoder=lambda text: msgspec.Raw(text.encode())
    )


async def keep(_: object) -> None:
    """No statement here leaves state in the session; the pool's RESET would be a round trip for nothing."""


app = Bare()
