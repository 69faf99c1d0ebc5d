"""List, test and resend a webhook's deliveries."""

from typing import TypeAlias
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import InvalidState, NotFound
from service.events.journal import Author
from service.events.models import Event, new_event
from service.webhooks.models import Delivery, Webhook
from service.webhooks.schemas import DeliveryStatus
from service.webhooks.service import WebhookService

DeliveryWithEvent: TypeAlias = tuple[Delivery, Event]


async def page(
    session: AsyncSession, webhook_id: UUID, status: DeliveryStatus | None, after: UUID | None, limit: int
) -> list[DeliveryWithEvent]:
    """Return deliveries, newest first."""
    await WebhookService(session).read(webhook_id)
    query = _select_deliveries(webhook_id)
    if status is not None:
        query = query.where(Delivery.status == status)
    if after is not None:
        query = query.where(Delivery.id < after)
    rows = await session.execute(query.order_by(Delivery.id.desc()).limit(limit))
    return [(delivery, event) for delivery, event in rows]


async def send_test(session: AsyncSession, webhook_id: UUID, author: Author) -> DeliveryWithEvent:
    """Create a test event and its delivery for this webhook only."""
    webhook = await _lock_enabled(session, webhook_id)
    event = new_event("webhook.test", webhook.id, author, {"id": webhook.id})
    session.add(event)
    await session.flush()
    delivery = Delivery(webhook_id=webhook.id, event_id=event.id)
    session.add(delivery)
    await session.flush()
    return delivery, event


async def resend(
    session: AsyncSession, webhook_id: UUID, delivery_id: UUID, author: Author
) -> DeliveryWithEvent:
    """Make a finished delivery due again.

    If retries remain, they are used; otherwise there is one attempt.
    """
    await _lock_enabled(session, webhook_id)
    query = _select_deliveries(webhook_id).where(Delivery.id == delivery_id)
    finished = query.where(Delivery.status != "pending").with_for_update(of=Delivery)
    row = (await session.execute(finished)).one_or_none()
    if row is None:
        pending = (await session.execute(query)).one_or_none()
        raise InvalidState("The delivery is already pending", "pending") if pending else NotFound
    delivery, event = row
    delivery.status, delivery.due_at, delivery.finished_at = "pending", func.now(), None
    resent = {"id": delivery.id, "webhook_id": webhook_id, "event_id": delivery.event_id}
    session.add(new_event("delivery.resent", delivery.id, author, resent))
    await session.flush()
    await session.refresh(delivery, ["due_at"])
    return delivery, event


def _select_deliveries(webhook_id: UUID) -> Select[Delivery, Event]:
    return (
        select(Delivery, Event)
        .join(Event, Event.id == Delivery.event_id)
        .where(Delivery.webhook_id == webhook_id)
    )


async def _lock_enabled(session: AsyncSession, webhook_id: UUID) -> Webhook:
    """Return the webhook, locked: it stays enabled, and concurrent resends wait for each other here.

    If they waited for the row of the delivery instead, the next one would lock that row as soon as the
    delivery is pending, and the dispatcher, which skips locked rows, would not send it.
    """
    webhook = await WebhookService(session).get_for_update(webhook_id)
    if not webhook.enabled:
        raise InvalidState("The webhook is disabled", "disabled")
    return webhook
