"""Traces: what the service tells of its work. Here it tells nobody; `service.observability.otel` sends it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

EXTRA = "opentelemetry.exporter"


class Tracer:
    """Off. Costs nothing, and imports nothing of the extra `tracing`."""

    enabled = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """At the end, what has not been sent yet is sent."""
        yield

    def start_request_span(self, method: str, headers: Mapping[str, str]) -> Any:
        """The span of a request, current from now on. `headers`: what of W3C Trace Context came along."""
        return None

    def trace_id(self, span: Any) -> str | None:
        return None

    def end_request_span(self, span: Any, name: str, attributes: Mapping[str, Any], *, failed: bool) -> None:
        pass

    def current_span(self) -> Any:
        """Where this code runs, for `work` to begin from or to refer to."""
        return None

    def internal_span(
        self, name: str, attributes: Mapping[str, Any], origins: Sequence[Any] = ()
    ) -> AbstractContextManager[Any]:
        """A span of something inside: part of the first of its origins, and linked to the others."""
        return nullcontext()

    def record_statement(self, record: Any) -> None:
        """Told of every statement of a connection, with what asyncpg's query loggers get."""


NO_TRACER = Tracer()


def is_installed() -> bool:
    """Whether the extra is there. Looks without importing more than its outermost package."""
    try:
        return (
            find_spec(f"{EXTRA}.otlp.proto.http") is not None and find_spec("opentelemetry.sdk") is not None
        )
    except ModuleNotFoundError:
        return False


def create_tracer(url: str | None, ratio: float) -> Tracer:
    """To an OTLP/HTTP endpoint, if there is one."""
    if url is None:
        return NO_TRACER
    from service.observability.otel import OtelTracer  # noqa: PLC0415  # an extra, imported only where it is used

    return OtelTracer(url, ratio)
