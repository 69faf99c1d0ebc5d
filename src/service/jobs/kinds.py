"""What a job can be: a name, the Struct of its payload, and the function that does it."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from service.errors import Fault
from service.jobs.context import JobContext


class UnknownJobKind(Fault):
    status, code, message = 422, "UNKNOWN_JOB", "There is no such kind of job"


class Kind(Struct, frozen=True):
    """`run` gets the task and the payload decoded to `payload`; what it returns is the job's result (JSON).

    It may be begun again after a crash or an error, so it has to bear that: by doing everything in one
    transaction that `JobContext.finish` is part of, or by writing what a second run would write again.
    """

    name: str
    payload: Any
    run: Callable[[JobContext, Any], Awaitable[Any]]

    @property
    def request(self) -> type[Struct]:
        """The body that asks for such a job: one look at it finds everything that is wrong."""
        return _request(self.payload)


class KindRegistry:
    """The registry."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = {kind.name: kind for kind in kinds}

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def __getitem__(self, name: str) -> Kind:
        """Raises `UnknownJobKind`, which lists the kinds there are."""
        kind = self._kinds.get(name)
        if kind is None:
            raise UnknownJobKind(details=[{"kind": known} for known in sorted(self._kinds)])
        return kind


@cache  # as many as there are kinds, each with its decoder
def _request(payload: Any) -> type[Struct]:
    fields = [("kind", str), ("payload", payload)]
    return msgspec.defstruct("Request", fields, forbid_unknown_fields=True)
