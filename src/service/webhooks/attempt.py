"""What is sent to a webhook, and what came of it."""

from uuid import UUID

from msgspec import Struct

from service.webhooks.schemas import Attempt

GONE = 410


class ClaimedDelivery(Struct, eq=False):
    """A claimed delivery, in the order of `statements.CLAIM`."""

    id: UUID
    tries: int
    """Which claim this is; whoever finds another number in the row has lost it."""
    attempts: int
    """How many were made before this one."""
    webhook_id: UUID
    url: str
    secrets: list[str]
    event_id: str
    body: str


class AttemptResult(Struct, frozen=True):
    attempt: Attempt
    retry_after: float = 0.0
    """Seconds the receiver asked to be left alone for."""

    @property
    def delivered(self) -> bool:
        return self.attempt.error is None

    @property
    def gone(self) -> bool:
        return self.attempt.status_code == GONE
