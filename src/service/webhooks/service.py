"""Keeping webhooks: plain records, and in the same transaction what the journal tells of each change."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict
from sqlalchemy import func, select, text, update
from uuid_utils.compat import uuid7
from yarl import URL

from service.errors import Detail, Fault, NoFields, NotFound, PreconditionFailed, ValidationFailed
from service.events.journal import Author, diff
from service.events.models import new_event
from service.webhooks.address_filter import is_certainly_private
from service.webhooks.models import Delivery, Webhook
from service.webhooks.schemas import WebhookCreate, WebhookPatch
from service.webhooks.signing import new_secret

# Nobody else's creation comes between the count and the row; reading and locking rows go on.
LOCK = text("lock table webhooks in share row exclusive mode")


class LimitReached(Fault):
    status, code, message = 409, "LIMIT_REACHED", "There are as many webhooks as there may be"


class WebhookRepository(SQLAlchemyAsyncRepository[Webhook]):
    model_type = Webhook


class WebhookService(SQLAlchemyAsyncRepositoryService[Webhook, WebhookRepository]):
    repository_type = WebhookRepository

    async def read(self, webhook_id: UUID) -> Webhook:
        found = await self.get_one_or_none(id=webhook_id)
        if found is None:
            raise NotFound
        return found

    async def locked(self, webhook_id: UUID, versions: list[int] | None = None) -> Webhook:
        """The row, nobody else's until the end of the transaction. Raises `PreconditionFailed` if stale."""
        found = await self.get_one_or_none(id=webhook_id, with_for_update=True)
        if found is None:
            raise NotFound
        if versions is not None and found.version not in versions:
            raise PreconditionFailed(found.version)
        return found

    async def page(self, after: UUID | None, limit: int) -> list[Webhook]:
        """Newest first."""
        older = [] if after is None else [Webhook.id < after]
        return list(await self.get_many(*older, LimitOffset(limit, 0), OrderBy("id", "desc")))

    async def add(self, new: Webhook, author: Author, *, webhooks_max: int) -> None:
        session = self.repository.session
        await session.execute(LOCK)
        count = await session.scalar(select(func.count()).select_from(Webhook))
        if count is not None and count >= webhooks_max:
            raise LimitReached
        session.add(new)
        self._record("webhook.created", new.id, author, event_payload(new))
        await session.flush()

    async def patch(
        self, webhook_id: UUID, data: WebhookPatch, author: Author, *, versions: list[int] | None
    ) -> Webhook:
        """Set the fields that were sent. Enabling forgets why it was disabled."""
        fields = {name: value for name, value in asdict(data).items() if value is not UNSET}
        if not fields:
            raise NoFields
        found = await self.locked(webhook_id, versions)
        before = event_payload(found)
        if data.enabled:
            fields["disabled_reason"] = None
        self._update(found, **fields)
        changed = {"id": found.id, "version": found.version, "changes": diff(before, event_payload(found))}
        self._record("webhook.updated", found.id, author, changed)
        return found

    async def rotate(self, webhook_id: UUID, author: Author, *, overlap_seconds: float) -> Webhook:
        """Give it another secret; for a while the old one signs as well."""
        found = await self.locked(webhook_id)
        until = datetime.now(UTC) + timedelta(seconds=overlap_seconds)
        self._update(found, secret=new_secret(), old_secret=found.secret, old_secret_until=until)
        self._record("webhook.secret_rotated", found.id, author, {"id": found.id, "version": found.version})
        return found

    async def remove(self, webhook_id: UUID, author: Author, *, versions: list[int] | None) -> None:
        """Delete it, and end its pending deliveries."""
        found = await self.locked(webhook_id, versions)
        ended = {"status": "failed", "due_at": None, "finished_at": func.now()}
        pending = Delivery.webhook_id == webhook_id, Delivery.status == "pending"
        await self.repository.session.execute(update(Delivery).where(*pending).values(ended))
        self._record("webhook.deleted", found.id, author, event_payload(found))
        await self.delete(webhook_id)

    def _update(self, found: Webhook, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(found, name, value)
        found.version += 1
        found.updated_at = datetime.now(UTC)

    def _record(self, type_: str, webhook_id: UUID, author: Author, payload: dict[str, Any]) -> None:
        self.repository.session.add(new_event(type_, webhook_id, author, payload))


def reject_private_url(url: str | UnsetType) -> None:
    """For what is certain without a look-up; the rest the guard refuses at the connection."""
    if url and is_certainly_private(URL(url).host or ""):
        raise ValidationFailed([Detail("/url", "must not be a private address")])


def new_webhook(data: WebhookCreate) -> Webhook:
    now = datetime.now(UTC)
    return Webhook(
        id=uuid7(),
        url=data.url,
        events=list(data.events),
        enabled=True,
        secret=new_secret(),
        version=1,
        created_at=now,
        updated_at=now,
    )


def event_payload(webhook: Webhook) -> dict[str, Any]:
    """What the journal tells of a webhook; never its secret."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events,
        "enabled": webhook.enabled,
        "disabled_reason": webhook.disabled_reason,
    }
