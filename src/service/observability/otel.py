"""OpenTelemetry over OTLP/HTTP (extra `tracing`). Imported only if `DEPOT_TRACES_URL` is set."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from threading import Thread
from typing import Any

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.observability.tracing import Tracer
from service.version import VERSION

EXPORT_SECONDS = 5
"""Export timeout; an unreachable collector delays shutdown by no more."""
STATEMENT_LENGTH_MAX = 1000
LINKS_MAX = 128
"""OpenTelemetry's limit of links per span."""


class ActiveSpan:
    """A request's span, and the token of the previous context."""

    __slots__ = ("span", "token")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.token = context.attach(trace.set_span_in_context(span))


class OtelTracer(Tracer):
    """OpenTelemetry tracing. It follows the caller's sampling; new traces are sampled at `ratio`."""

    enabled = True

    def __init__(self, url: str, ratio: float) -> None:
        resource = Resource.create({"service.name": "depot", "service.version": VERSION})
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBasedTraceIdRatio(ratio), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_SECONDS)))
        self._tracer = self._provider.get_tracer("depot", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            ending = Thread(target=self._provider.shutdown, daemon=True)
            ending.start()
            await asyncio.to_thread(ending.join, EXPORT_SECONDS)

    def start_request_span(self, method: str, headers: Mapping[str, str]) -> ActiveSpan:
        parent = self._propagator.extract(headers, context=context.Context())
        return ActiveSpan(self._tracer.start_span(method, parent, SpanKind.SERVER))

    def trace_id(self, span: ActiveSpan) -> str:
        return trace.format_trace_id(span.span.get_span_context().trace_id)

    def end_request_span(
        self, span: ActiveSpan, name: str, attributes: Mapping[str, Any], *, failed: bool
    ) -> None:
        context.detach(span.token)
        if span.span.is_recording():
            span.span.update_name(name)
            span.span.set_attributes(attributes)
            if failed:
                span.span.set_status(StatusCode.ERROR)
        span.span.end()

    def current_span(self) -> Span:
        return trace.get_current_span()

    @contextmanager
    def internal_span(
        self, name: str, attributes: Mapping[str, Any], origins: Sequence[Any] = ()
    ) -> Iterator[Span]:
        sampled = [span for span in origins if span.get_span_context().trace_flags.sampled]
        parent = trace.set_span_in_context(sampled[0], context.Context()) if sampled else context.Context()
        links = [Link(span.get_span_context()) for span in sampled[1:LINKS_MAX]]
        with self._tracer.start_as_current_span(name, parent, attributes=attributes, links=links) as span:
            for other in sampled[1:]:
                other.add_link(span.get_span_context())
            yield span

    def record_statement(self, record: Any) -> None:
        """Record a finished statement; its parent span may have ended."""
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return  # internal work: polling, health checks
        ended, text = time.time_ns(), " ".join(record.query.split())
        span = self._tracer.start_span(
            f"postgresql {text.partition(' ')[0].lower().rstrip(';')}",
            kind=SpanKind.CLIENT,
            start_time=ended - int(record.elapsed * 1e9),
            attributes={"db.system.name": "postgresql", "db.query.text": text[:STATEMENT_LENGTH_MAX]},
        )
        if record.exception is not None:  # not its text, which can hold a whole row
            span.set_status(StatusCode.ERROR, type(record.exception).__name__)
        span.end(ended)
