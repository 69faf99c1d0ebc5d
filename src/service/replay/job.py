"""Job kind `webhook.replay`: deliver again to one webhook what happened in a period.

Deliveries are created in small batches. Before each batch, the job waits until less than a batch is due, so a
live event waits behind less than two batches.
"""

import asyncio
from datetime import timedelta
from uuid import UUID

from service.database.clock import MAX_CLOCK_SKEW
from service.events.pruned import READ_PRUNED_ID
from service.jobs.context import JobContext, JobFailed
from service.jobs.kinds import Kind
from service.replay.schemas import Replayed, WebhookReplay
from service.times import lowest_uuid7

BATCH_SIZE = 50
SCAN_SIZE = 5000
"""Maximum number of events that one statement examines."""
WAIT_SECONDS = 0.2
LONGEST_TRANSACTION = timedelta(hours=1)
"""Maximum time from `created_at`, the start of the transaction, to the time in the event's id."""

READ_QUEUE = """
select enabled, (select count(*) from (
  select from deliveries where webhook_id = $1 and due_at <= now() limit $2) due) as due
from webhooks where id = $1"""

# The job's UUIDv7, TTTTTTTT-TTTT-7hhh-vrrr-hhhhhhhhhhhh, with the digits `h` from hashes of job and event: a
# second run of the job computes the same ids, so it creates no delivery again. An upgrade interrupts running
# jobs, and the next version runs them again: it must compute the same ids, too.
DELIVERY_ID = """(left($2::uuid::text, 15) || left(md5(id::text || $2::uuid::text), 3)
    || substr($2::uuid::text, 19, 6) || right(md5($2::uuid::text || id::text), 12))::uuid"""

REPLAY = f"""
with scanned as materialized (
  select id, type, created_at from events
  where id > $3 and id < $4 and id > ({READ_PRUNED_ID}) order by id limit {SCAN_SIZE}
), batch as materialized (
  select id from scanned where type = any($5::text[]) and created_at >= $6 and created_at < $7
  order by id limit {BATCH_SIZE}
), inserted as (
  insert into deliveries (id, webhook_id, event_id) select {DELIVERY_ID}, $1, id from batch
  on conflict (id) do nothing
)
select (select count(*) from batch) as count, coalesce(
  (select id from batch order by id offset {BATCH_SIZE - 1}),
  (select id from scanned order by id desc limit 1)) as last"""
"""Creates a batch of deliveries. Returns its size, and the last event examined, or null at the end."""


async def replay(context: JobContext, payload: WebhookReplay) -> Replayed:
    """Deliver the events again, oldest first."""
    last: UUID | None = lowest_uuid7(payload.from_ - MAX_CLOCK_SKEW)
    end = lowest_uuid7(payload.to + MAX_CLOCK_SKEW + LONGEST_TRANSACTION)
    period, count = (payload.events, payload.from_, payload.to), 0
    while last is not None:
        await _wait_for_receiver(context, payload.webhook_id)
        row = await context.database.fetchrow(REPLAY, payload.webhook_id, context.id, last, end, *period)
        assert row is not None  # noqa: S101  # a select without `from` returns one row
        if row["last"] is not None:
            count += row["count"]
            await context.report_progress(99 * (row["last"].int - last.int) // (end.int - last.int))
        last = row["last"]
    return Replayed(count)


async def _wait_for_receiver(context: JobContext, webhook_id: UUID) -> None:
    """Return once less than a batch is due. Raises `JobFailed` if the webhook was disabled or deleted."""
    while True:
        webhook = await context.database.fetchrow(READ_QUEUE, webhook_id, BATCH_SIZE)
        if webhook is None or not webhook["enabled"]:
            raise JobFailed("The webhook was disabled" if webhook else "The webhook was deleted")
        if webhook["due"] < BATCH_SIZE:
            return
        await asyncio.sleep(WAIT_SECONDS)


REPLAY_KIND = Kind("webhook.replay", WebhookReplay, replay, internal=True)
