"""Assemble the application: every component is created and wired here, readable from top to bottom."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import asyncpg
from advanced_alchemy.exceptions import RepositoryError
from litestar import Litestar, Request, Router
from litestar.di import Provide
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ASGIApp
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.audit.controller import AuditController
from service.audit.feed_controller import FeedController
from service.auth.authenticator import KeyAuthenticator
from service.auth.authorizer import Authorizer
from service.auth.last_use import LastUseRecorder
from service.auth.rate_limit import RateLimiter
from service.blobs import open_blob_store
from service.database.database import Database, orm_session_dependency, session_dependency
from service.docs import DocsController, openapi_config
from service.documents.controller import DocumentController, UploadController
from service.documents.store import DocumentStore
from service.documents.upload import UploadReceiver
from service.errors import DatabaseUnavailable, Fault, Overloaded
from service.health.controller import HealthController, Probe
from service.health.database_metrics import DatabaseMetrics
from service.health.metrics_endpoint import MetricsController, ScrapeCache
from service.http.admission import AdmissionControl
from service.http.cors import CorsMiddleware
from service.http.error_handlers import (
    Handler,
    dropping_tracebacks,
    reply_to_bug,
    reply_to_invalid_parameters,
    reply_to_litestar_error,
    reply_to_postgres_error,
    reply_to_wrapped_error,
    reply_with,
    reply_with_fault,
    reply_with_replay,
)
from service.http.middleware import RequestMiddleware
from service.http.parameters import validate_parameters
from service.http.reply import Reply
from service.http.request import StrictRequest
from service.http.trust import TrustPolicy
from service.idempotency.replies import Replay
from service.items import catalog, stock
from service.items.controller import ItemController
from service.items.stock_controller import StockController
from service.job_kinds import build_registry
from service.jobs.controller import JobController, ProcessController
from service.jobs.streams import JobStreams
from service.keys.controller import KeyController
from service.observability.logs import access_log
from service.observability.metrics import Metrics
from service.observability.tracer_factory import create_tracer
from service.orders import queries
from service.orders.controller import OrderController
from service.orders.pending import PLACE_ORDER
from service.orders.placement import PlacementQueue
from service.replay.controller import ReplayController
from service.reports.controller import ReportController
from service.resources.controller import ResourceController
from service.settings import Settings
from service.users import actions
from service.users.controller import UserController
from service.webhooks.controller import WebhookController
from service.webhooks.dispatcher import WebhookDispatcher

if TYPE_CHECKING:
    from service.worker import Worker

WORKER_GRACE_SECONDS = 0.5
"""Seconds that running jobs get to finish when Ctrl-C stops a worker in the API's process.

Unfinished jobs are requeued and run again.
"""
METRICS_ACCESS: dict[str, dict[str, Any]] = {
    "open": {"public": True},
    "key": {"scope": "metrics:read", "allow_stale_key": True},
}
"""Route options of `GET /metrics` by setting."""


CONTROLLERS = [
    HealthController,
    DocsController,
    ItemController,
    StockController,
    OrderController,
    ReportController,
    DocumentController,
    UploadController,
    UserController,
    AuditController,
    FeedController,
    KeyController,
    ProcessController,
    JobController,
    ReplayController,
]


DRIVER_ERROR_HANDLERS: dict[int | type[Exception], Handler] = {
    asyncpg.PostgresError: reply_to_postgres_error(catalog.FAULT_BY_CONSTRAINT),
    asyncpg.InterfaceError: reply_with(DatabaseUnavailable),
    asyncpg.InternalClientError: reply_with(DatabaseUnavailable),
    OSError: reply_with(DatabaseUnavailable),  # and its subclass TimeoutError
    PoolTimeoutError: reply_with(Overloaded),
}
EXCEPTION_HANDLERS: dict[int | type[Exception], Handler] = {
    Fault: reply_with_fault,
    Replay: reply_with_replay,
    ValidationException: reply_to_invalid_parameters,
    HTTPException: reply_to_litestar_error,
    **DRIVER_ERROR_HANDLERS,
    SQLAlchemyError: reply_to_wrapped_error(DRIVER_ERROR_HANDLERS),
    RepositoryError: reply_to_wrapped_error(DRIVER_ERROR_HANDLERS),
    Exception: reply_to_bug,
}
"""The API error for each class of exception; Litestar picks the nearest class of the MRO."""


RECORD_CONTROLLERS = [ResourceController, WebhookController]
"""Controllers of plain records, whose `session` is advanced-alchemy's (decision 0002)."""


class Components:
    """The components of one application. Nothing connects before `open`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.claims_in_progress: set[tuple[str, str, str]] = set()
        self.metrics = Metrics()
        self.tracer = create_tracer(settings.traces_url, settings.traces_ratio)
        self.database = Database(settings, self.metrics, self.tracer)
        self.blobs = open_blob_store(settings)
        self.kinds = build_registry(settings)
        self.probe = Probe(self.database, self.blobs, timeout_seconds=settings.health_timeout_seconds)
        self.scrapes = ScrapeCache(self.metrics, DatabaseMetrics(self.database, self.kinds))
        self.admission = AdmissionControl(
            in_flight_min=settings.in_flight_min,
            in_flight_max=settings.in_flight_max,
            delay_seconds=settings.overload_delay_seconds,
            timeout_seconds=settings.request_timeout_seconds,
        )
        self.placement = PlacementQueue(self.database, settings, metrics=self.metrics, tracer=self.tracer)
        self.database.add_batch(PLACE_ORDER, self.placement)
        self.database.add_batches([*catalog.BATCHES, *stock.BATCHES, *queries.BATCHES, *actions.BATCHES])
        self.upload_receiver = UploadReceiver(self.blobs, settings, self.metrics)
        self.document_store = DocumentStore(self.blobs)
        self.dispatcher = WebhookDispatcher(self.database, settings, metrics=self.metrics)
        self.last_use = LastUseRecorder(self.database)
        self.rate_limiter = RateLimiter(self.metrics, settings.rate_limit_store)
        self.streams = JobStreams(self.database, streams_max=settings.job_streams_max, draining=self.draining)
        self.metrics.track(self.metrics.streams, lambda: len(self.streams))
        self.by_type: dict[type, Any] = {type(component): component for component in vars(self).values()}
        """For handlers that have a session too (see `StrictRequest.component`)."""

    def draining(self) -> bool:
        return self.probe.draining

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with (
            self.tracer.open(),
            self.database.open(),
            self.database.commits.watch(self.admission.reject_writes),
            self.metrics.open(),
            self.probe.open(),
            self.scrapes.open(),
            self.admission.open(),
            self.placement.open(),
            self.dispatcher.open(),
            self.streams.open(),
            self.last_use.open(),
            self.rate_limiter.open(),
        ):
            yield

    def worker(self) -> "Worker":
        # Imported lazily: PgQueuer costs 130 ms and 6 MiB, which an API without a worker does not need.
        from service.worker import Worker  # noqa: PLC0415

        return Worker(
            self.settings,
            self.database,
            self.kinds,
            on_job_end=self.dispatcher.wake,
            grace_seconds=WORKER_GRACE_SECONDS,
            metrics=self.metrics,
            tracer=self.tracer,
        )

    def dependencies(self) -> dict[str, Provide]:
        """Return the dependencies that handlers request by parameter name."""
        return {
            "session": session_dependency(self.database),
            "probe": _provide(self.probe),
            "scrapes": _provide(self.scrapes),
        }


def components_of(app: Litestar) -> Components:
    components: Components = app.state.components
    return components


def create_app(settings: Settings, *, worker: bool = False) -> Litestar:
    """Build the application, with a worker in its process if requested.

    Nothing connects before the application's lifespan starts.
    """
    components = Components(settings)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with components.open(), components.worker().open() if worker else nullcontext():
            yield

    async def wake_dispatcher(request: Request[Any, Any, Any]) -> None:
        """Start webhook delivery after a write.

        It must never raise: the server would close the client's connection.
        """
        if request.method != "GET":
            components.dispatcher.wake()

    async def check_request(request: Request[Any, Any, Any]) -> None:
        """Authorize a request and validate its parameters, before its body is read."""
        await authorizer.authorize(request)
        await validate_parameters(request)

    authenticator = KeyAuthenticator(
        components.database,
        secret=settings.secret,
        previous_secret=settings.secret_previous,
        cache_max=settings.key_cache_max,
        unknown_lookups_max=max(1, settings.pool_size // 2),
        default_rate_limit=settings.rate_limit,
        on_use_due=components.last_use.record,
    )
    authorizer = Authorizer(authenticator, components.rate_limiter)
    metrics = Router("/metrics", route_handlers=[MetricsController], opt=METRICS_ACCESS[settings.metrics])
    records = Router(
        "/",
        route_handlers=RECORD_CONTROLLERS,
        dependencies={"session": orm_session_dependency(components.database)},
    )
    app = Litestar(
        route_handlers=[*CONTROLLERS, records, metrics],
        dependencies=components.dependencies(),
        before_request=check_request,
        exception_handlers={
            error: dropping_tracebacks(handler) for error, handler in EXCEPTION_HANDLERS.items()
        },
        after_response=wake_dispatcher,
        lifespan=[lifespan],
        request_class=StrictRequest,
        response_class=Reply,
        request_max_body_size=settings.body_bytes_max,
        openapi_config=openapi_config(),
        logging_config=None,
    )
    # On the state, not injected: with two dependencies, Litestar starts a task for each (100 µs per request).
    app.state.components = components
    app.asgi_handler = _wrap_asgi_handler(app, components)
    return app


def _wrap_asgi_handler(app: Litestar, components: Components) -> ASGIApp:
    """Wrap Litestar in the layer for replies that it would send too late or outside the error contract."""
    settings = components.settings
    middleware = RequestMiddleware(
        app,
        components.admission,
        TrustPolicy(settings.allowed_hosts, settings.trusted_proxies),
        draining=components.draining,
        commits=components.database.commits,
        log_access=access_log(settings.log),
        metrics=components.metrics,
        tracer=components.tracer,
    )
    return CorsMiddleware(middleware, settings.cors_origins) if settings.cors_origins else middleware


def _provide(part: Any) -> Provide:
    return Provide(lambda: part, sync_to_thread=False)
