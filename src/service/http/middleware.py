"""The outermost ASGI layer, around every path, including unrouted ones.

It handles request ids, traces, HEAD, OPTIONS, shedding, the deadline, metrics, the access log, and exceptions
that nothing else handled. It is one layer, because each costs 20 to 50 µs per request (decision 0005).
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import structlog
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.exceptions import NotFoundException
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from litestar.utils import normalize_path

from service.errors import BadRequest, DatabaseUnavailable, Draining, InternalError, NotFound, Overloaded
from service.http.admission import AdmissionControl
from service.http.exchange import Exchange
from service.http.request import PATCH_TYPES
from service.http.trust import TrustPolicy
from service.observability.logs import REQUEST_CONTEXT, AccessLogEntry
from service.observability.metrics import Metrics
from service.observability.redaction import redact_path
from service.observability.tracing import Tracer

log = structlog.get_logger()
SHEDDING_EXEMPT_PATHS = ("/health", "/metrics")
"""Paths exempt from shedding and host checks: monitoring needs a reply under overload, for any host."""
TRACE_CONTEXT = (b"traceparent", b"tracestate")
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
REPORTING_CODES = {
    *(b"ALREADY_EXISTS", b"DUPLICATE_SKU", b"INVALID_STATE", b"NOT_FOUND"),
    *(b"PRECONDITION_FAILED", b"QUANTITY_CHANGED"),
}
"""Codes by which a client can learn that its own earlier request, whose reply was lost, took effect."""


class Commits(Protocol):
    """A monitor that reports whether commits complete, and waits for those made before."""

    is_blocked: bool

    async def join(self) -> None: ...


class RequestMiddleware:
    """Wraps Litestar's own ASGI handler; `create_app` installs it."""

    def __init__(
        self,
        app: Litestar,
        admission: AdmissionControl,
        trust: TrustPolicy,
        *,
        draining: Callable[[], bool],
        commits: Commits,
        log_access: Callable[[AccessLogEntry], None],
        metrics: Metrics,
        tracer: Tracer,
    ) -> None:
        self._inner: ASGIApp = app.asgi_handler
        self._router = app.asgi_router
        self._allow_by_route = _allowed_methods(app)
        self._admission = admission
        self._trust = trust
        self._draining = draining
        self._commits = commits
        self._log_access = log_access
        self._metrics = metrics
        self._tracer = tracer
        self._in_flight = 0
        metrics.track(metrics.in_flight, lambda: self._in_flight)
        metrics.track(metrics.in_flight_limit, lambda: admission.limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return  # WebSockets are not supported: the server answers 403 if nothing accepts
        if "parsed_at" in scope["state"]:
            self._admission.pending -= 1
        exchange = Exchange(scope, send, self._admission, closing=self._draining())
        scope["state"]["exchange"] = exchange
        self._in_flight += 1
        span = self._begin_span(exchange) if self._tracer.enabled else None
        token = REQUEST_CONTEXT.set((exchange.request_id, exchange.trace_id))
        try:
            await self._handle(exchange, receive)
        except asyncio.CancelledError:  # the server cancels requests that outlast its shutdown timeout
            if exchange.cancelled and exchange.writer is not None:
                exchange.writer.uncancel()
                return
            if not exchange.status:
                await exchange.send_error(Draining())
            raise
        except Exception:  # no outer layer would send a reply
            log.exception("unhandled_error")
            if exchange.status:
                exchange.code = InternalError.code
                raise  # the reply has started: only closing the connection signals the error
            await exchange.send_error(InternalError())
        finally:
            self._in_flight -= 1
            self._admission.complete(exchange)
            # Break a reference cycle that only the garbage collector would end.
            del scope["state"]["exchange"]
            REQUEST_CONTEXT.reset(token)
            self._record(exchange)
            if span is not None:
                self._end_span(exchange, span)

    async def _handle(self, exchange: Exchange, receive: Receive) -> None:
        scope = exchange.scope
        if not exchange.path.startswith(SHEDDING_EXEMPT_PATHS):
            if self._admission.full:
                self._admission.rejected += 1
                retry_after = self._admission.retry_after(scope["client"])
                return await exchange.send_error(Overloaded(headers=retry_after))
            if not self._trust.allows_host(exchange.host):
                return await exchange.send_error(
                    BadRequest("This service does not serve the host in the Host header")
                )
            self._admission.admit(exchange)
        if scope["method"] == "OPTIONS":
            return await self._options(exchange)
        if exchange.head:  # in a copy: uvicorn must still see HEAD to omit the body
            exchange.scope = {**scope, "method": "GET"}
        if scope["method"] in SAFE_METHODS:
            return await self._inner(exchange.scope, receive, exchange.send)
        if self._commits.is_blocked:
            return await exchange.send_error(DatabaseUnavailable())
        exchange.writer = asyncio.current_task()
        return await self._inner(exchange.scope, receive, partial(self._send_confirmed, exchange))

    async def _send_confirmed(self, exchange: Exchange, message: Message) -> None:
        """Send a reply; one that reports an earlier commit only once that commit has been replicated."""
        if message["type"] == "http.response.start" and _reports_earlier_commit(exchange, message["headers"]):
            try:
                await self._commits.join()
            except DatabaseUnavailable as fault:
                return await exchange.replace_reply(fault)
        return await exchange.send(message)

    async def _options(self, exchange: Exchange) -> None:
        try:
            *_, template = self._router.handle_routing(path=normalize_path(exchange.path), method="OPTIONS")
        except NotFoundException:
            await exchange.send_error(NotFound())
        else:
            exchange.scope["path_template"] = template
            allow = self._allow_by_route[template]
            patch = {"Accept-Patch": ", ".join(PATCH_TYPES)} if "PATCH" in allow else {}
            await exchange.send_reply(204, {"Allow": allow, **patch})

    def _record(self, exchange: Exchange) -> None:
        scope, seconds, status = exchange.scope, perf_counter() - exchange.started, exchange.status or 499
        route, method = exchange.route, exchange.method
        self._metrics.observe_request(route, method, status, seconds)
        if exchange.code is not None:
            self._metrics.errors.labels(exchange.code).inc()
        if status == 200 and exchange.path.startswith(SHEDDING_EXEMPT_PATHS):
            return  # probes several times a second would log 100 MB a day without information
        key = scope.get("user")
        self._log_access(
            AccessLogEntry(
                method=method,
                path=exchange.path,
                route=route,
                status=status,
                code=exchange.code,
                ms=round(seconds * 1000, 2),
                request_id=exchange.request_id,
                trace_id=exchange.trace_id,
                key=key and key.id,
                client=self._trust.client_address(scope["client"], exchange.forwarded_for),
                timestamp=datetime.now(UTC),
            )
        )

    def _begin_span(self, exchange: Exchange) -> Any:
        headers = exchange.scope["headers"]
        trace_headers = {
            name.decode(): value.decode("latin-1") for name, value in headers if name in TRACE_CONTEXT
        }
        span = self._tracer.start_request_span(exchange.method, trace_headers)
        exchange.trace_id = self._tracer.trace_id(span)
        return span

    def _end_span(self, exchange: Exchange, span: Any) -> None:
        status = exchange.status or 499
        attributes = {
            "http.request.method": exchange.method,
            "http.response.status_code": status,
            "url.path": redact_path(exchange.path),
            "depot.request_id": exchange.request_id,
        }
        name = exchange.method
        if exchange.route is not None:
            attributes["http.route"] = exchange.route
            name = f"{name} {exchange.route}"
        if exchange.code is not None:
            attributes["error.type"] = exchange.code
        self._tracer.end_request_span(
            span, name, attributes, failed=status >= 500 or exchange.code == InternalError.code
        )


def _reports_earlier_commit(exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a reply states what an earlier request did: a replay, or an error such as a conflict."""
    return "user" in exchange.scope and any(
        name == b"idempotent-replayed" or (name == b"x-error-code" and value in REPORTING_CODES)
        for name, value in headers
    )


def allow_header(methods: Iterable[str]) -> str:
    """Return an `Allow` header: GET implies HEAD, and OPTIONS is always allowed."""
    known = set(methods) | {"OPTIONS"}
    return ", ".join(sorted(known | {"HEAD"} if "GET" in known else known))


def _allowed_methods(app: Litestar) -> dict[str, str]:
    """Return `Allow` by path template; Litestar's own OPTIONS handler misses methods registered after it."""
    return {route.path_format or "/": allow_header(getattr(route, "methods", [])) for route in app.routes}
