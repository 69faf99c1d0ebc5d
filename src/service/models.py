"""All models, imported so that the metadata is whole: migrations compare it with the database."""

from service.auth.models import ApiKey, Secret
from service.db import Base
from service.events.models import Event
from service.http.models import IdempotencyKey
from service.items.models import Item, Movement
from service.orders.models import Order, OrderLine, Transaction
from service.resources.models import Resource

__all__ = [
    "ApiKey",
    "Base",
    "Event",
    "IdempotencyKey",
    "Item",
    "Movement",
    "Order",
    "OrderLine",
    "Resource",
    "Secret",
    "Transaction",
]
