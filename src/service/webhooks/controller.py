"""The endpoints of webhooks."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import InvalidCursor, InvalidState, NoFields, NotFound, PreconditionFailed
from service.events.models import Event
from service.http.idempotency import hold_claim
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.reply import Reply, if_match_versions, versioned_reply
from service.http.request import StrictRequest
from service.idempotency.replies import (
    IDEMPOTENCY_FAULTS,
    StoredReply,
    creation_reply,
    store_reply_in_session,
)
from service.settings import Settings
from service.values import encode_json, reply_headers
from service.webhooks import deliveries, models
from service.webhooks.dispatcher import WebhookDispatcher
from service.webhooks.schemas import Attempt, Delivery, DeliveryStatus, Webhook, WebhookCreate, WebhookPatch
from service.webhooks.service import LimitReached, WebhookService, new_webhook, reject_private_url


class WebhookController(Controller):
    path = "/webhooks"
    tags = ["Webhooks"]

    @post(scope="webhooks:write", faults=[LimitReached, *IDEMPOTENCY_FAULTS])
    async def create_webhook(
        self,
        session: NamedDependency[AsyncSession],
        settings: NamedDependency[Settings],
        courier: NamedDependency[WebhookDispatcher],
        request: StrictRequest,
        data: JSONBody[WebhookCreate],
    ) -> Reply[Webhook]:
        """Ask to be told of events. The secret, to verify signatures with, is shown this once.

        Every event arrives at least once, signed by Standard Webhooks 1.0 (`webhook-id`, `webhook-timestamp`,
        `webhook-signature`); the id is the same however often it is tried. Whatever is not a 2xx within
        15 seconds is tried again, for three days; 410 disables the webhook. Redirects are not followed.
        """
        if not settings.webhook_allow_private:
            reject_private_url(data.url)
        new = new_webhook(data)
        created, location = wire(new, show_secret=True), f"/webhooks/{new.id}"
        async with hold_claim(request) as claim:
            if claim is not None:
                await store_reply_in_session(session, creation_reply(claim, created, location))
            await WebhookService(session).add(new, request.author, webhooks_max=settings.webhooks_max)
        courier.expect()
        return versioned_reply(request, created, location=location)

    @get(scope="webhooks:read", faults=[InvalidCursor])
    async def list_webhooks(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Webhook]:
        """List webhooks, newest first."""
        pager = Pager[UUID](request, limit, cursor, UUID)
        records = await WebhookService(session).page(pager.after, pager.fetch_limit)
        return pager.page([wire(record) for record in records], lambda webhook: webhook.id)

    @get("/{webhook_id:str}", scope="webhooks:read", faults=[NotFound])
    async def get_webhook(
        self, session: NamedDependency[AsyncSession], request: StrictRequest, webhook_id: FromPath[UUID]
    ) -> Reply[Webhook]:
        """Read a webhook."""
        return versioned_reply(request, wire(await WebhookService(session).read(webhook_id)))

    @patch("/{webhook_id:str}", scope="webhooks:write", faults=[NoFields, NotFound, PreconditionFailed])
    async def update_webhook(
        self,
        session: NamedDependency[AsyncSession],
        settings: NamedDependency[Settings],
        courier: NamedDependency[WebhookDispatcher],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
        data: JSONBody[WebhookPatch],
    ) -> Reply[Webhook]:
        """Change the fields that are sent, and no others.

        While a webhook is disabled nothing is sent, and events that happen are not kept for it; what was
        pending goes on once it is enabled.
        """
        if not settings.webhook_allow_private:
            reject_private_url(data.url)
        record = await WebhookService(session).patch(
            webhook_id, data, request.author, versions=if_match_versions(request)
        )
        if record.enabled:
            courier.expect()
        return versioned_reply(request, wire(record))

    @delete("/{webhook_id:str}", scope="webhooks:write", faults=[NotFound, PreconditionFailed])
    async def delete_webhook(
        self, session: NamedDependency[AsyncSession], request: StrictRequest, webhook_id: FromPath[UUID]
    ) -> None:
        """Delete a webhook; what was pending is not sent any more."""
        await WebhookService(session).remove(webhook_id, request.author, versions=if_match_versions(request))

    @post(
        "/{webhook_id:str}/secret",
        scope="webhooks:write",
        status_code=200,
        faults=[NotFound, *IDEMPOTENCY_FAULTS],
    )
    async def rotate_secret(
        self,
        session: NamedDependency[AsyncSession],
        settings: NamedDependency[Settings],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
    ) -> Reply[Webhook]:
        """Make a new secret, shown this once. For a day the old one signs as well.

        Receivers have that long to change; each event carries both signatures meanwhile.
        """
        async with hold_claim(request) as claim:
            record = await WebhookService(session).rotate(
                webhook_id, request.author, overlap_seconds=settings.webhook_secret_overlap_seconds
            )
            rotated = wire(record, show_secret=True)
            if claim is not None:
                kept = StoredReply(claim, 200, reply_headers(rotated.version), encode_json(rotated))
                await store_reply_in_session(session, kept)
        return versioned_reply(request, rotated)

    @post(
        "/{webhook_id:str}/test",
        scope="webhooks:write",
        status_code=202,
        faults=[NotFound, InvalidState, *IDEMPOTENCY_FAULTS],
    )
    async def test_webhook(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
    ) -> Reply[Delivery]:
        """Send an event of the type `webhook.test` to this webhook only."""
        async with hold_claim(request) as claim:
            owed = to_delivery_schema(*await deliveries.send_test(session, webhook_id, request.author))
            if claim is not None:
                await store_reply_in_session(session, StoredReply(claim, 202, {}, encode_json(owed)))
        return Reply(owed)

    @get("/{webhook_id:str}/deliveries", scope="webhooks:read", faults=[NotFound, InvalidCursor])
    async def list_deliveries(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
        status: Annotated[DeliveryStatus | None, QueryParameter(description="In this state.")] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Delivery]:
        """List what a webhook was told or is to be told, newest first, with every attempt."""
        pager = Pager[UUID](request, limit, cursor, UUID)
        found = await deliveries.page(session, webhook_id, status, pager.after, pager.fetch_limit)
        return pager.page([to_delivery_schema(*row) for row in found], lambda delivery: delivery.id)

    @post(
        "/{webhook_id:str}/deliveries/{delivery_id:str}/resend",
        scope="webhooks:write",
        status_code=202,
        faults=[NotFound, InvalidState],
    )
    async def resend_delivery(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
        delivery_id: FromPath[UUID],
    ) -> Reply[Delivery]:
        """Send a delivery again that was delivered or has failed.

        It has the retries it has not used up: one that used all of them is tried once.
        """
        return Reply(
            to_delivery_schema(*await deliveries.resend(session, webhook_id, delivery_id, request.author))
        )


def wire(record: models.Webhook, *, show_secret: bool = False) -> Webhook:
    return Webhook(
        id=record.id,
        url=record.url,
        events=msgspec.convert(record.events, list),
        enabled=record.enabled,
        disabled_reason=record.disabled_reason,
        version=record.version,
        created_at=record.created_at,
        updated_at=record.updated_at,
        secret=record.secret if show_secret else UNSET,
    )


def to_delivery_schema(record: models.Delivery, event: Event) -> Delivery:
    return Delivery(
        id=record.id,
        event_id=record.event_id,
        event_type=event.type,
        status=msgspec.convert(record.status, DeliveryStatus),
        due_at=record.due_at,
        attempts=msgspec.convert(record.attempts, list[Attempt]),
        finished_at=record.finished_at,
        created_at=event.created_at,
    )
