"""FastAPI with SQLAlchemy's async ORM on asyncpg, as its own handbook for production prescribes.

One generator dependency holds the session and commits; `model_dump(exclude_unset=True)` tells omitted from
null; handlers render one error contract; `response_model` shapes every reply. Nothing is left out that makes
it correct (row locks, commit before the reply), nothing is put in that makes it slow.
"""

import hashlib
import logging
import os
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import BackgroundTasks, Depends, FastAPI, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_schemas import (
    ActionCreate,
    ActionOut,
    DocumentOut,
    ItemOut,
    ItemPage,
    ItemPatch,
    OrderCreate,
    OrderOut,
)
from fastapi_tables import Content, Document, Event, Item, Movement, Order, OrderLine, Transaction
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from uuid_utils.compat import uuid7

engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"),
    pool_size=int(os.environ["POOL_SIZE"]),
    max_overflow=0,
)
sessions = async_sessionmaker(engine, expire_on_commit=False)
log = logging.getLogger("peer")
FOLDER = Path(os.environ["DEPOT_HOME"])
ALLOWED_MIMES = {"image/png", "image/jpeg", "application/pdf"}
MAX_FILE_SIZE = 5 * 1024 * 1024
app = FastAPI(title="Inventory", telemetry={"tracing": False, "metrics": False, "logs": False})


# --- Dependencies


async def transaction() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        try:
            yield session
            await session.commit()
        except Exception:
            await session.rollback()
            raise


# scope="function": FastAPI's default would commit after the reply, which then promises what may yet fail
Session = Annotated[AsyncSession, Depends(transaction, scope="function")]


# --- Errors


class ServiceFault(Exception):
    def __init__(self, error_code: str, message: str, status_code: int = 400) -> None:
        self.error_code = error_code
        self.message = message
        self.status_code = status_code


@app.exception_handler(ServiceFault)
async def service_fault_handler(request: Request, exc: ServiceFault) -> JSONResponse:
    error = {"code": exc.error_code, "message": exc.message, "path": request.url.path}
    return JSONResponse(status_code=exc.status_code, content={"error": error})


@app.exception_handler(RequestValidationError)
async def validation_error_handler(request: Request, exc: RequestValidationError) -> JSONResponse:
    error = {
        "code": "VALIDATION_FAILED",
        "message": "Request payload validation failed",
        "path": request.url.path,
        "details": [{"field": detail["loc"], "message": detail["msg"]} for detail in exc.errors()],
    }
    return JSONResponse(status_code=422, content={"error": error})


# --- Routes


@app.get("/items/{item_id}", response_model=ItemOut)
async def get_item(item_id: UUID, session: Session) -> Item:
    item = await session.get(Item, item_id)
    if item is None:
        raise ServiceFault("NOT_FOUND", "Not found", 404)
    return item


@app.get("/items", response_model=ItemPage)
async def list_items(
    session: Session, limit: Annotated[int, Query(ge=1, le=200)] = 50, cursor: UUID | None = None
) -> dict[str, Any]:
    query = select(Item).order_by(Item.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Item.id < cursor)
    items = (await session.scalars(query)).all()
    return {"data": items[:limit], "next_cursor": items[limit - 1].id if len(items) > limit else None}


@app.patch("/items/{item_id}", response_model=ItemOut)
async def update_item(item_id: UUID, payload: ItemPatch, session: Session) -> Item:
    update_fields = payload.model_dump(exclude_unset=True)
    if not update_fields:
        raise ServiceFault("NO_FIELDS", "No fields provided for update")
    item = await session.get(Item, item_id, with_for_update=True)
    if item is None:
        raise ServiceFault("NOT_FOUND", "Not found", 404)
    for field, value in update_fields.items():
        setattr(item, field, value)
    item.version += 1
    await session.flush()  # sets updated_at, which the reply shows
    return item


@app.post("/orders", response_model=OrderOut, status_code=201)
async def create_order(payload: OrderCreate, session: Session) -> Order:
    wanted: dict[UUID, int] = {}
    for line in payload.lines:
        wanted[line.item_id] = wanted.get(line.item_id, 0) + line.quantity
    items = await lock_items(session, wanted)
    if any(item.quantity < wanted[item.id] for item in items.values()):
        raise ServiceFault("INSUFFICIENT_STOCK", "Cannot fulfill order", 409)
    order = sell(session, payload, [(items[item_id], quantity) for item_id, quantity in wanted.items()])
    await session.flush()  # sets the defaults, which the reply shows
    return order


@app.post("/users/{user_id}/actions", response_model=ActionOut, status_code=201)
async def create_action(
    user_id: str, payload: ActionCreate, session: Session, background_tasks: BackgroundTasks
) -> ActionOut:
    event = Event(type="user.action", subject=user_id, actor="bench", payload=payload.model_dump())
    session.add(event)
    await session.flush()
    background_tasks.add_task(notify, user_id, payload.action)
    return ActionOut(status="action_completed", id=event.id)


@app.post("/documents", response_model=DocumentOut, status_code=201)
async def upload_document(file: UploadFile, session: Session) -> Document:
    """The handbook's checks: the declared type, and the length of what was read into memory."""
    if file.content_type not in ALLOWED_MIMES:
        raise ServiceFault("INVALID_TYPE", f"Unsupported media type: {file.content_type}")
    content = await file.read()
    if len(content) > MAX_FILE_SIZE:
        raise ServiceFault("TOO_LARGE", f"File exceeds maximum size of {MAX_FILE_SIZE} bytes", 413)
    return await keep(session, file.filename or "file", file.content_type, content)


async def keep(session: AsyncSession, filename: str, content_type: str, content: bytes) -> Document:
    sha256 = hashlib.sha256(content).digest()
    path = FOLDER / sha256.hex()
    await run_in_threadpool(path.write_bytes, content)
    session.add(Content(sha256=sha256, key=str(path)))
    await session.flush()
    document = Document(filename=filename, content_type=content_type, size_bytes=len(content), sha256=sha256)
    session.add(document)
    payload = {"filename": filename, "size": len(content)}
    session.add(Event(type="document.stored", subject=filename, actor="bench", payload=payload))
    await session.flush()
    return document


async def notify(user_id: str, action: str) -> None:
    """Lost if the process ends before it has run: that is what the handbook prescribes."""
    log.info("%s did %s", user_id, action)


async def lock_items(session: AsyncSession, wanted: dict[UUID, int]) -> dict[UUID, Item]:
    """In the order of their ids, so that no two orders can wait for each other."""
    rows = await session.scalars(select(Item).where(Item.id.in_(wanted)).order_by(Item.id).with_for_update())
    items = {item.id: item for item in rows}
    if len(items) < len(wanted):
        raise ServiceFault("UNKNOWN_ITEM", "The order names items that do not exist", 422)
    return items


def sell(session: AsyncSession, payload: OrderCreate, sold: list[tuple[Item, int]]) -> Order:
    lines = [order_line(number, item, quantity) for number, (item, quantity) in enumerate(sold, start=1)]
    total = sum((line.amount for line in lines), Decimal(0))
    currency = sold[0][0].currency
    order = Order(
        id=uuid7(),
        customer_id=payload.customer_id,
        reference=payload.reference,
        currency=currency,
        total=total,
        lines=lines,
        transactions=[Transaction(kind="sale", amount=total, currency=currency)],
    )
    session.add(order)
    session.add_all(take(item, quantity, order.id) for item, quantity in sold)
    return order


def order_line(number: int, item: Item, quantity: int) -> OrderLine:
    return OrderLine(
        line_no=number,
        item_id=item.id,
        sku=item.sku,
        name=item.name,
        quantity=quantity,
        unit_price=item.price,
        amount=item.price * quantity,
    )


def take(item: Item, quantity: int, order_id: UUID) -> Movement:
    item.quantity -= quantity
    item.version += 1
    return Movement(
        item_id=item.id,
        version=item.version,
        cause="order",
        delta=-quantity,
        resulting_quantity=item.quantity,
        order_id=order_id,
    )
