"""HTTP endpoint of replays."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import UUID

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.database.session import Session
from service.errors import Detail, InvalidState, NotFound, ValidationFailed
from service.events.journal import ALL_EVENTS, EventType
from service.events.pruned import READ_PRUNED_ID
from service.http.idempotency import hold_claim
from service.http.operation import operation
from service.http.reply import Reply
from service.http.request import StrictRequest
from service.idempotency.replies import IDEMPOTENCY_FAULTS, prefer_stored_outcome
from service.jobs import operations
from service.jobs.schemas import JobCreate, Queued
from service.replay.job import REPLAY_KIND
from service.replay.schemas import ReplayCreate
from service.times import format_time, uuid7_time

AGE_MAX = timedelta(days=30)
AGE_TOLERANCE = timedelta(hours=1)
"""Tolerance for clients that request the last 30 days: their clocks may be behind."""

READ_WEBHOOK = "select enabled, events from webhooks where id = $1"


class ReplayController(Controller):
    path = "/webhooks"
    tags = ["Webhooks"]

    @post(
        "/{webhook_id:str}/replay",
        status_code=202,
        opt=operation(
            scope="webhooks:write", has_location=True, faults=[NotFound, InvalidState, *IDEMPOTENCY_FAULTS]
        ),
    )
    async def replay_webhook(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        webhook_id: FromPath[UUID],
        data: JSONBody[ReplayCreate],
    ) -> Reply[Queued]:
        """Deliver the events of a period again

        The events are delivered under the same ids as before (`webhook-id`), oldest first, by a job whose
        URL is in `Location`. New events are delivered in between.
        """
        now = datetime.now(UTC)
        check_period(data, now)
        async with hold_claim(request) as claim, prefer_stored_outcome(session, claim):
            await check_retention(session, data.from_)
            webhook = await session.fetchrow(READ_WEBHOOK, webhook_id)
            if webhook is None:
                raise NotFound
            if not webhook["enabled"]:
                raise InvalidState("The webhook is disabled", "disabled")
            payload = {
                "webhook_id": webhook_id,
                "from": data.from_,
                "to": min(data.to, now),
                "events": _expand(data.events or webhook["events"]),
            }
            job = JobCreate(REPLAY_KIND.name, payload)
            queued = await operations.submit(session, job, request.author, claim)
        return Reply(queued, headers={"Location": operations.location(queued.id)})


def check_period(data: ReplayCreate, now: datetime) -> None:
    """Raise `ValidationFailed` unless the period is one that can be replayed."""
    details = []
    if data.from_ < now - AGE_MAX - AGE_TOLERANCE:
        details.append(Detail("/from", "must be at most 30 days ago"))
    if data.to <= data.from_:
        details.append(Detail("/to", "must be later than from"))
    if details:
        raise ValidationFailed(details)


async def check_retention(session: Session, begin: datetime) -> None:
    """Raise `ValidationFailed` if events since that time were pruned."""
    pruned_until = uuid7_time(await session.fetchval(READ_PRUNED_ID))
    if begin <= pruned_until:
        message = f"must be later than {format_time(pruned_until)}: older events were pruned"
        raise ValidationFailed([Detail("/from", message)])


def _expand(events: Sequence[str]) -> list[str]:
    return list(get_args(EventType)) if ALL_EVENTS in events else list(events)
