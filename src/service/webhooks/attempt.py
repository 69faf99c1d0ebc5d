"""A claimed delivery, and the result of an attempt."""

from uuid import UUID

from msgspec import Struct

from service.webhooks.schemas import Attempt

GONE = 410


class ClaimedDelivery(Struct, eq=False):
    """A claimed delivery, in the order of `statements.CLAIM`."""

    id: UUID
    tries: int
    """The claim number, a fencing token: if the row has another one, this process has lost the delivery."""
    attempts: int
    """The number of attempts before this one."""
    webhook_id: UUID
    url: str
    secrets: list[str]
    event_id: str
    body: str


class AttemptResult(Struct, frozen=True):
    attempt: Attempt
    retry_after: float = 0.0
    """The receiver's `Retry-After` in seconds."""

    @property
    def delivered(self) -> bool:
        return self.attempt.error is None

    @property
    def gone(self) -> bool:
        return self.attempt.status_code == GONE
