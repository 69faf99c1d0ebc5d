"""The interface of tracing, and its no-op implementation. `otel` exports spans."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any


class Tracer:
    """Tracing that does nothing, costs nothing and does not import the extra `tracing`."""

    enabled = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Export the remaining spans when the block ends."""
        yield

    def start_request_span(self, method: str, headers: Mapping[str, str]) -> Any:
        """Start a request's span and make it current. `headers` contains W3C Trace Context."""
        return None

    def trace_id(self, span: Any) -> str | None:
        return None

    def end_request_span(self, span: Any, name: str, attributes: Mapping[str, Any], *, failed: bool) -> None:
        pass

    def current_span(self) -> Any:
        """Return the current span, as an origin for `internal_span`."""
        return None

    def internal_span(
        self, name: str, attributes: Mapping[str, Any], origins: Sequence[Any] = ()
    ) -> AbstractContextManager[Any]:
        """Start an internal span: a child of the first origin, linked to the others."""
        return nullcontext()

    def record_statement(self, record: Any) -> None:
        """Record a finished SQL statement; asyncpg calls this as a query logger."""


NO_TRACER = Tracer()
