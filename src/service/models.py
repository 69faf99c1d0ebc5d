"""Imports all models, so that the metadata is complete: migrations compare it with the database."""

from service.audit.models import SealedEvent, SealingState
from service.auth.models import ApiKey, Secret
from service.database.orm import Base
from service.documents.models import Content, Document
from service.events.models import Event
from service.idempotency.models import IdempotencyKey
from service.items.models import Item, Movement
from service.jobs.models import Job
from service.orders.models import Order, OrderLine, Transaction
from service.reports.models import Books, DailyItemSales, DailySales
from service.resources.models import Resource
from service.webhooks.models import Delivery, Webhook

__all__ = [
    "ApiKey",
    "Base",
    "Books",
    "Content",
    "DailyItemSales",
    "DailySales",
    "Delivery",
    "Document",
    "Event",
    "IdempotencyKey",
    "Item",
    "Job",
    "Movement",
    "Order",
    "OrderLine",
    "Resource",
    "SealedEvent",
    "SealingState",
    "Secret",
    "Transaction",
    "Webhook",
]
