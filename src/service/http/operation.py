"""The declarations of a handler: the scope it requires, the errors it can return, its other replies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.errors import Fault


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
