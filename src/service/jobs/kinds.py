"""Job kinds: a name, the Struct of the payload, and a function."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from service.errors import Fault
from service.jobs.context import JobContext


class UnknownJobKind(Fault):
    status, code, message = 422, "UNKNOWN_JOB", "Unknown job kind"
    example_details = ({"kind": "report.export"},)


class Kind(Struct, frozen=True):
    """A job kind. `run` receives the context and the decoded `payload`, and returns the job's result (JSON).

    It may run again after a crash or an error, so it must be idempotent: either it has one transaction,
    which includes `JobContext.succeed`, or a second run writes exactly the same.
    """

    name: str
    payload: Any
    run: Callable[[JobContext, Any], Awaitable[Any]]
    internal: bool = False
    """Whether only the service starts it, not `POST /process`."""

    @property
    def request(self) -> type[Struct]:
        """Return the Struct of the request body, so that one decoding reports all errors."""
        return _request(self.payload)


class KindRegistry:
    """The registry of job kinds."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = {kind.name: kind for kind in kinds}

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    @property
    def startable(self) -> "KindRegistry":
        """Return the kinds that clients can start."""
        return KindRegistry(kind for kind in self if not kind.internal)

    def __getitem__(self, name: str) -> Kind:
        """Return a kind by its name. Raises `UnknownJobKind` with the list of kinds."""
        kind = self._kinds.get(name)
        if kind is None:
            raise UnknownJobKind(details=[{"kind": known} for known in sorted(self._kinds)])
        return kind


@cache  # one per kind, with its decoder
def _request(payload: Any) -> type[Struct]:
    fields = [("kind", str), ("payload", payload)]
    return msgspec.defstruct("Request", fields, forbid_unknown_fields=True)
