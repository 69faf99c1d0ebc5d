"""The bodies of the FastAPI peer's requests and replies."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Price = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]


class ItemPatch(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    description: Annotated[str, Field(max_length=4000)] | None = None
    price: Price | None = None
    attributes: dict[str, Any] | None = None


class ItemOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    sku: str
    name: str
    description: str | None
    price: Decimal
    currency: str
    quantity: int
    attributes: dict[str, Any] | None
    version: int
    created_at: datetime
    updated_at: datetime


class ItemPage(BaseModel):
    data: list[ItemOut]
    next_cursor: UUID | None


class LineCreate(BaseModel):
    item_id: UUID
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]


class OrderCreate(BaseModel):
    customer_id: Annotated[str, Field(min_length=1, max_length=128)]
    reference: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    lines: Annotated[list[LineCreate], Field(min_length=1, max_length=100)]


class LineOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    item_id: UUID
    sku: str
    name: str
    quantity: int
    unit_price: Decimal
    amount: Decimal


class OrderOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    status: str
    customer_id: str
    reference: str | None
    currency: str
    total: Decimal
    lines: list[LineOut]
    version: int
    created_at: datetime


class ActionCreate(BaseModel):
    action: Annotated[str, Field(min_length=1, max_length=100)]
    metadata: dict[str, Any] | None = None


class DocumentOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    filename: str
    size_bytes: int


class ActionOut(BaseModel):
    status: str
    id: UUID
