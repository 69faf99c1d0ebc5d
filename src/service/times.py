"""Times that clients send, and how they order UUIDv7 ids."""

from datetime import UTC, datetime
from uuid import UUID

TIME_SCHEMA = {"anyOf": [{"type": "string", "format": kind} for kind in ("date-time", "date")]}
TIME_FORMAT = "RFC 3339, such as 2026-11-23T12:00:00Z. A date means 00:00 UTC."
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""Nothing stored is older, and arithmetic near `datetime.min` would overflow."""
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
FIRST_ID, LAST_ID = UUID(int=0), UUID(int=2**128 - 1)


def parse_time(text: str) -> datetime:
    """Parse a time or date; without an offset it is UTC. Raises `ValueError` with a message for clients."""
    try:
        time = datetime.fromisoformat(text.upper().replace(" ", "+"))  # a + in a query means a space
        utc = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be an RFC 3339 time or date, such as 2026-11-23T12:00:00Z") from None
    return min(max(utc, EARLIEST), LATEST)


def format_time(time: datetime) -> str:
    """Return a time as clients see it."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def uuid7_time(id_: UUID) -> datetime:
    """Return the time of a UUIDv7, to the millisecond."""
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)


def lowest_uuid7(time: datetime) -> UUID:
    """Return the lowest UUIDv7 of a time (RFC 9562 §5.7: the first 48 bits are Unix milliseconds)."""
    return UUID(int=max(0, int(time.timestamp() * 1000)) << 80)
