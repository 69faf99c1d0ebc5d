"""HTTP endpoints of webhooks."""

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
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.reply import Reply, if_match_versions, versioned_reply
from service.http.request import StrictRequest
from service.idempotency.replies import IDEMPOTENCY_FAULTS, prefer_stored_outcome, store_reply
from service.settings import Settings
from service.values import reply_headers
from service.webhooks import deliveries, models
from service.webhooks.dispatcher import WebhookDispatcher
from service.webhooks.schemas import Attempt, Delivery, DeliveryStatus, Webhook, WebhookCreate, WebhookPatch
from service.webhooks.service import LimitReached, WebhookService, reject_private_url


class WebhookController(Controller):
    path = "/webhooks"
    tags = ["Webhooks"]

    @post(opt=operation(scope="webhooks:write", faults=[LimitReached, *IDEMPOTENCY_FAULTS]))
    async def create_webhook(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        data: JSONBody[WebhookCreate],
    ) -> Reply[Webhook]:
        """Create a webhook

        The reply contains the signing secret, which is not shown again. Each event is delivered at least
        once, signed as in Standard Webhooks 1.0 (`webhook-id`, `webhook-timestamp`, `webhook-signature`);
        the id is the same for every attempt. An attempt without a 2xx within the timeout (15 seconds by
        default) is retried for three days; 410 disables the webhook. Redirects are not followed.
        """
        settings = request.component(Settings)
        if not settings.webhook_allow_private:
            reject_private_url(data.url)
        async with hold_claim(request) as claim, prefer_stored_outcome(session, claim):
            record = await WebhookService(session).add(
                data, request.author, webhooks_max=settings.webhooks_max
            )
            created, location = to_schema(record, show_secret=True), f"/webhooks/{record.id}"
            await store_reply(session, claim, 201, created, reply_headers(created.version, location))
        request.component(WebhookDispatcher).enable()
        return versioned_reply(request, created, location=location)

    @get(opt=operation(scope="webhooks:read", faults=[InvalidCursor]))
    async def list_webhooks(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Webhook]:
        """List webhooks, newest first"""
        pager = Pager[UUID](request, limit, cursor, UUID)
        records = await WebhookService(session).page(pager.after, pager.fetch_limit)
        return pager.page([to_schema(record) for record in records], lambda webhook: webhook.id)

    @get("/{webhook_id:str}", opt=operation(scope="webhooks:read", faults=[NotFound]))
    async def get_webhook(
        self, session: NamedDependency[AsyncSession], request: StrictRequest, webhook_id: FromPath[UUID]
    ) -> Reply[Webhook]:
        """Read a webhook"""
        return versioned_reply(request, to_schema(await WebhookService(session).read(webhook_id)))

    @patch(
        "/{webhook_id:str}",
        opt=operation(scope="webhooks:write", faults=[NoFields, NotFound, PreconditionFailed]),
    )
    async def update_webhook(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
        data: JSONBody[WebhookPatch],
    ) -> Reply[Webhook]:
        """Update a webhook

        Only the fields that are sent change. While a webhook is disabled nothing is sent and new events are
        not stored for it; pending deliveries continue once it is enabled.
        """
        if not request.component(Settings).webhook_allow_private:
            reject_private_url(data.url)
        record = await WebhookService(session).patch(
            webhook_id, data, request.author, versions=if_match_versions(request)
        )
        if record.enabled:
            request.component(WebhookDispatcher).enable()
        return versioned_reply(request, to_schema(record))

    @delete("/{webhook_id:str}", opt=operation(scope="webhooks:write", faults=[NotFound, PreconditionFailed]))
    async def delete_webhook(
        self, session: NamedDependency[AsyncSession], request: StrictRequest, webhook_id: FromPath[UUID]
    ) -> None:
        """Delete a webhook

        Its deliveries are deleted with it, and pending ones are not sent.
        """
        await WebhookService(session).remove(webhook_id, request.author, versions=if_match_versions(request))

    @post(
        "/{webhook_id:str}/secret",
        status_code=200,
        opt=operation(scope="webhooks:write", faults=[NotFound, LimitReached, *IDEMPOTENCY_FAULTS]),
    )
    async def rotate_secret(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
    ) -> Reply[Webhook]:
        """Rotate the signing secret

        The reply contains the new secret, which is not shown again. The old one also signs for a while (one
        day by default), so that receivers can switch; until it expires, each event carries both
        signatures.
        """
        async with hold_claim(request) as claim, prefer_stored_outcome(session, claim):
            overlap_seconds = request.component(Settings).webhook_secret_overlap_seconds
            record = await WebhookService(session).rotate(
                webhook_id, request.author, overlap_seconds=overlap_seconds
            )
            rotated = to_schema(record, show_secret=True)
            await store_reply(session, claim, 200, rotated, reply_headers(rotated.version))
        return versioned_reply(request, rotated)

    @post(
        "/{webhook_id:str}/test",
        status_code=202,
        opt=operation(scope="webhooks:write", faults=[NotFound, InvalidState, *IDEMPOTENCY_FAULTS]),
    )
    async def test_webhook(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
    ) -> Reply[Delivery]:
        """Send a test event

        Sends `webhook.test` to this webhook only.
        """
        async with hold_claim(request) as claim, prefer_stored_outcome(session, claim):
            delivery = to_delivery_schema(*await deliveries.send_test(session, webhook_id, request.author))
            await store_reply(session, claim, 202, delivery)
        return Reply(delivery)

    @get(
        "/{webhook_id:str}/deliveries", opt=operation(scope="webhooks:read", faults=[NotFound, InvalidCursor])
    )
    async def list_deliveries(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
        status: Annotated[
            DeliveryStatus | None, QueryParameter(description="Only entries with this status.")
        ] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Delivery]:
        """List a webhook's deliveries and attempts, newest first"""
        pager = Pager[UUID](request, limit, cursor, UUID)
        rows = await deliveries.page(session, webhook_id, status, pager.after, pager.fetch_limit)
        return pager.page([to_delivery_schema(*row) for row in rows], lambda delivery: delivery.id)

    @post(
        "/{webhook_id:str}/deliveries/{delivery_id:str}/resend",
        status_code=202,
        opt=operation(scope="webhooks:write", faults=[NotFound, InvalidState, *IDEMPOTENCY_FAULTS]),
    )
    async def resend_delivery(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
        delivery_id: FromPath[UUID],
    ) -> Reply[Delivery]:
        """Resend a finished delivery

        If retries remain, they are used; otherwise there is one attempt.
        """
        async with hold_claim(request) as claim, prefer_stored_outcome(session, claim):
            resent = await deliveries.resend(session, webhook_id, delivery_id, request.author)
            delivery = to_delivery_schema(*resent)
            await store_reply(session, claim, 202, delivery)
        return Reply(delivery)


def to_schema(record: models.Webhook, *, show_secret: bool = False) -> Webhook:
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
