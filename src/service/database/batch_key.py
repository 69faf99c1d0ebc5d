"""The keys by which sessions join batches."""

from typing import Generic, Protocol, TypeVar

from msgspec import Struct

Request = TypeVar("Request")
Result = TypeVar("Result")
Request_contra = TypeVar("Request_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class BatchKey(Struct, Generic[Request, Result], frozen=True, eq=False):
    """The key by which callers join a batch: a constant next to the operation."""

    name: str
    """The name of the span in traces."""


class Batch(Protocol[Request_contra, Result_co]):
    """The queue that a session joins by a key: a `Batcher`, or a feature's own queue that wraps one."""

    async def join(self, request: Request_contra, /) -> Result_co: ...
