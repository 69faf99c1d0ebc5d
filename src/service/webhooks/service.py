"""Webhook management: plain records, with the journal event in the same transaction.

The operations on deliveries in `deliveries.py` are functions, as they select from two tables.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict
from sqlalchemy import func, select, text
from uuid_utils.compat import uuid7

from service.errors import Detail, Fault, NoFields, NotFound, PreconditionFailed, ValidationFailed
from service.events.journal import Author, diff
from service.events.models import new_event
from service.webhooks.address_filter import is_certainly_private
from service.webhooks.models import Webhook
from service.webhooks.schemas import WebhookCreate, WebhookPatch
from service.webhooks.signing import new_secret
from service.webhooks.url import parse_url

# Blocks concurrent creations between count and insert, but neither reads nor row locks.
BLOCK_CREATIONS = text("lock table webhooks in share row exclusive mode")

OLDER_SECRETS_MAX = 8
"""How many earlier secrets a webhook may have; each of them signs every event."""


class LimitReached(Fault):
    status, code, message = (
        409,
        "LIMIT_REACHED",
        "The maximum number of webhooks is reached; delete one first",
    )


class WebhookRepository(SQLAlchemyAsyncRepository[Webhook]):
    model_type = Webhook


class WebhookService(SQLAlchemyAsyncRepositoryService[Webhook, WebhookRepository]):
    repository_type = WebhookRepository

    async def read(self, webhook_id: UUID) -> Webhook:
        record = await self.get_one_or_none(id=webhook_id)
        if record is None:
            raise NotFound
        return record

    async def get_for_update(self, webhook_id: UUID, versions: list[int] | None = None) -> Webhook:
        """Return the row, locked until the transaction ends. Raises `PreconditionFailed` if it is stale."""
        record = await self.get_one_or_none(id=webhook_id, with_for_update=True)
        if record is None:
            raise NotFound
        if versions is not None and record.version not in versions:
            raise PreconditionFailed(record.version)
        return record

    async def page(self, after: UUID | None, limit: int) -> list[Webhook]:
        """Return webhooks, newest first."""
        older = [] if after is None else [Webhook.id < after]
        return list(await self.get_many(*older, LimitOffset(limit, 0), OrderBy("id", "desc")))

    async def add(self, data: WebhookCreate, author: Author, *, webhooks_max: int) -> Webhook:
        session, now = self.repository.session, datetime.now(UTC)
        await session.execute(BLOCK_CREATIONS)
        count = await session.scalar(select(func.count()).select_from(Webhook))
        if count is not None and count >= webhooks_max:
            raise LimitReached
        record = Webhook(
            id=uuid7(),
            url=data.url,
            events=list(data.events),
            enabled=True,
            secret=new_secret(),
            version=1,
            created_at=now,
            updated_at=now,
        )
        session.add(record)
        self._record("webhook.created", record.id, author, event_payload(record))
        await session.flush()
        return record

    async def patch(
        self, webhook_id: UUID, data: WebhookPatch, author: Author, *, versions: list[int] | None
    ) -> Webhook:
        """Set the fields that were sent. Enabling clears `disabled_reason`."""
        fields = {name: value for name, value in asdict(data).items() if value is not UNSET}
        if not fields:
            raise NoFields
        record = await self.get_for_update(webhook_id, versions)
        before = event_payload(record)
        if data.enabled:
            fields["disabled_reason"] = None
        self._update(record, **fields)
        changed = {"id": record.id, "version": record.version, "changes": diff(before, event_payload(record))}
        self._record("webhook.updated", record.id, author, changed)
        return record

    async def rotate(self, webhook_id: UUID, author: Author, *, overlap_seconds: float) -> Webhook:
        """Rotate the secret; the old one also signs for `overlap_seconds`."""
        record = await self.get_for_update(webhook_id)
        older_secrets = _older_secrets(record)
        if len(older_secrets) >= OLDER_SECRETS_MAX:
            raise LimitReached("Too many earlier secrets are still valid; wait until they expire")
        self._update(
            record,
            secret=new_secret(),
            old_secret=record.secret,
            old_secret_until=datetime.now(UTC) + timedelta(seconds=overlap_seconds),
            older_secrets=older_secrets,
        )
        self._record(
            "webhook.secret_rotated", record.id, author, {"id": record.id, "version": record.version}
        )
        return record

    async def remove(self, webhook_id: UUID, author: Author, *, versions: list[int] | None) -> None:
        """Delete a webhook. Maintenance deletes its deliveries, of which there may be very many."""
        record = await self.get_for_update(webhook_id, versions)
        self._record("webhook.deleted", record.id, author, event_payload(record))
        await self.delete(webhook_id)

    def _update(self, record: Webhook, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(record, name, value)
        record.version += 1
        record.updated_at = datetime.now(UTC)

    def _record(self, type_: str, webhook_id: UUID, author: Author, payload: dict[str, Any]) -> None:
        self.repository.session.add(new_event(type_, webhook_id, author, payload))


def reject_private_url(url: str | UnsetType) -> None:
    """Reject a URL that is certainly private; `address_filter` checks all others at the connection."""
    if url and is_certainly_private(parse_url(url).host):
        raise ValidationFailed([Detail("/url", "must not be a private address")])


def _older_secrets(record: Webhook) -> list[dict[str, Any]]:
    """Return the secrets that precede the current one and are still valid, newest first."""
    now = datetime.now(UTC)
    older = [entry for entry in record.older_secrets if datetime.fromisoformat(entry["until"]) > now]
    if record.old_secret is None or record.old_secret_until is None or record.old_secret_until <= now:
        return older
    return [{"secret": record.old_secret, "until": record.old_secret_until.isoformat()}, *older]


def event_payload(webhook: Webhook) -> dict[str, Any]:
    """Return the fields for the journal, never the secret."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events,
        "enabled": webhook.enabled,
        "disabled_reason": webhook.disabled_reason,
    }
