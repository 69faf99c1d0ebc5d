"""The deliveries of a webhook, for whoever wants to see or to repeat them."""

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
    """Newest first."""
    await WebhookService(session).read(webhook_id)
    chosen = _select_deliveries(webhook_id)
    if status is not None:
        chosen = chosen.where(Delivery.status == status)
    if after is not None:
        chosen = chosen.where(Delivery.id < after)
    rows = await session.execute(chosen.order_by(Delivery.id.desc()).limit(limit))
    return [(owed, told) for owed, told in rows]


async def send_test(session: AsyncSession, webhook_id: UUID, author: Author) -> DeliveryWithEvent:
    """Owe this webhook, and no other, an event that means nothing."""
    webhook = await _lock_enabled(session, webhook_id)
    tested = new_event("webhook.test", webhook.id, author, {"id": webhook.id})
    session.add(tested)
    await session.flush()
    owed = Delivery(webhook_id=webhook.id, event_id=tested.id)
    session.add(owed)
    await session.flush()
    return owed, tested


async def resend(
    session: AsyncSession, webhook_id: UUID, delivery_id: UUID, author: Author
) -> DeliveryWithEvent:
    """Make a finished delivery due again.

    It has the retries it has not used up: one that used all of them is tried once.
    """
    await _lock_enabled(session, webhook_id)
    chosen = _select_deliveries(webhook_id).where(Delivery.id == delivery_id)
    finished = chosen.where(Delivery.status != "pending").with_for_update(of=Delivery)
    found = (await session.execute(finished)).one_or_none()
    if found is None:
        pending = (await session.execute(chosen)).one_or_none()
        raise InvalidState("The delivery is pending already") if pending else NotFound
    owed, told = found
    owed.status, owed.due_at, owed.finished_at = "pending", func.now(), None
    resent = {"id": owed.id, "webhook_id": webhook_id, "event_id": owed.event_id}
    session.add(new_event("delivery.resent", owed.id, author, resent))
    await session.flush()
    await session.refresh(owed, ["due_at"])
    return owed, told


def _select_deliveries(webhook_id: UUID) -> Select[Delivery, Event]:
    return (
        select(Delivery, Event)
        .join(Event, Event.id == Delivery.event_id)
        .where(Delivery.webhook_id == webhook_id)
    )


async def _lock_enabled(session: AsyncSession, webhook_id: UUID) -> Webhook:
    """The webhook, locked: so it stays enabled, and who sends the same again waits here.

    Who waited for a delivery's row would hold it once it is pending, and the courier skips what is locked.
    """
    webhook = await WebhookService(session).locked(webhook_id)
    if not webhook.enabled:
        raise InvalidState("The webhook is disabled")
    return webhook
