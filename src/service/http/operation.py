"""The declarations of a handler: the scope it requires, the errors it can return, its other replies."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from email.utils import format_datetime
from typing import Any

from litestar.datastructures import ResponseHeader

from service.errors import Fault

NOTICE_MIN = timedelta(days=365)
"""The least time between the announcement of a removal and the removal (docs/compatibility.md)."""


def operation(
    *,
    scope: str | None = None,
    faults: Sequence[type[Fault]] = (),
    media: Sequence[str] = (),
    parsers: Mapping[str, Callable[[str], object]] | None = None,
    conditional: bool = False,
    has_location: bool = False,
    optional_body: bool = False,
    headers: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the `opt` of a handler. Litestar's own keywords would accept any name and any type.

    `scope` is required of the API key, or checked by an outer layer if it is None. `faults` are the errors
    beyond those of every operation. `media` are the types of its replies besides JSON. `parsers` parse query
    parameters; they raise `ValueError` with a message for clients. `conditional` says that it honors
    `If-None-Match` although its reply has no version, `has_location` that it sends `Location`,
    `optional_body` that a request without a body means `{}`. `headers` are other headers that it sends.
    """
    declared = {"faults": faults, "media": media, "parsers": parsers or {}, "conditional": conditional}
    scoped = {} if scope is None else {"scope": scope}
    return {
        **declared,
        **scoped,
        "has_location": has_location,
        "optional_body": optional_body,
        "headers": headers,
    }


def deprecation(*, since: date, sunset: date, explanation: str) -> dict[str, Any]:
    """Return the keywords of a deprecated handler: its 2xx replies announce its removal on the day `sunset`.

    `explanation` is a URL. The headers are those of RFC 9745 and RFC 8594. Raises `ValueError` if the notice
    is too short.
    """
    if sunset - since < NOTICE_MIN:
        raise ValueError("a removal must be announced at least twelve months before")
    begin, end = (datetime.combine(day, time(), UTC) for day in (since, sunset))
    headers = {
        "Deprecation": f"@{begin.timestamp():.0f}",
        "Sunset": format_datetime(end, usegmt=True),
        "Link": f'<{explanation}>; rel="deprecation"',
    }
    return {
        "deprecated": True,
        "response_headers": [ResponseHeader(name=name, value=value) for name, value in headers.items()],
    }
