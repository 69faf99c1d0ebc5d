"""The application: all wiring, readable from top to bottom."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request, Router
from litestar.di import Provide
from litestar.types import ASGIApp

from service.audit.controller import AuditController
from service.auth.middleware import AuthMiddleware, KeyAuthenticator
from service.auth.rate_limit import RateLimiter
from service.blobs import open_blob_store
from service.database.database import Database, session_dependency
from service.docs import DocsController, openapi_config
from service.documents.controller import DocumentController, UploadController
from service.documents.intake import UploadReceiver
from service.documents.store import DocumentStore
from service.health.controller import HealthController, Probe
from service.health.metrics_endpoint import DatabaseMetrics, MetricsController, ScrapeCache
from service.http.admission import AdmissionControl
from service.http.cors import CorsMiddleware
from service.http.error_handlers import exception_handlers
from service.http.middleware import RequestMiddleware
from service.http.reply import Reply
from service.http.request import StrictRequest
from service.http.trust import TrustPolicy
from service.items import catalog
from service.items.controller import ItemController
from service.job_kinds import build_registry
from service.jobs.controller import JobController, ProcessController
from service.jobs.streams import JobStreams
from service.observability.logs import access_log
from service.observability.metrics import Metrics
from service.observability.tracing import create_tracer
from service.orders.controller import OrderController
from service.orders.placement import PlacementQueue
from service.reports.controller import ReportController
from service.resources.controller import ResourceController
from service.settings import Settings
from service.users.controller import UserController
from service.webhooks.controller import WebhookController
from service.webhooks.dispatcher import WebhookDispatcher

if TYPE_CHECKING:
    from service.worker import Worker

WORKER_GRACE_SECONDS = 0.5
"""What jobs get to end in when Ctrl-C stops a worker in the process of the API; they are begun again then."""
POOL_WAITERS_PER_CONNECTION = 3
"""More requests than this that wait for one of the pool's are overload, if it lasts."""
METRICS_ACCESS: dict[str, dict[str, Any]] = {
    "open": {"public": True},
    "key": {"scope": "metrics:read", "allow_stale_key": True},
}
"""Who may read `GET /metrics`."""


CONTROLLERS = [
    HealthController,
    DocsController,
    ItemController,
    OrderController,
    ReportController,
    ResourceController,
    DocumentController,
    UploadController,
    UserController,
    AuditController,
    WebhookController,
    ProcessController,
    JobController,
]


class Components:
    """What the application is made of. Nothing is connected before they are opened."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
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
            waiting=lambda: self.database.waiting,
            waiting_max=settings.pool_size * POOL_WAITERS_PER_CONNECTION,
        )
        self.placement = PlacementQueue(self.database, settings, metrics=self.metrics, tracer=self.tracer)
        self.intake = UploadReceiver(self.blobs, settings, self.metrics)
        self.archive = DocumentStore(self.database, self.blobs, settings)
        self.courier = WebhookDispatcher(self.database, settings, metrics=self.metrics)
        self.streams = JobStreams(self.database, streams_max=settings.job_streams_max, draining=self.draining)
        self.metrics.track(self.metrics.streams, lambda: len(self.streams))

    def draining(self) -> bool:
        return self.probe.draining

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with (
            self.tracer.open(),
            self.database.open(),
            self.metrics.open(),
            self.probe.open(),
            self.scrapes.open(),
            self.admission.open(),
            self.placement.open(),
            self.courier.open(),
            self.streams.open(),
        ):
            yield

    def worker(self) -> "Worker":
        # PgQueuer is 130 ms and 6 MiB that the API alone does without.
        from service.worker import Worker  # noqa: PLC0415

        return Worker(
            self.settings,
            self.database,
            self.kinds,
            on_end=self.courier.wake,
            grace_seconds=WORKER_GRACE_SECONDS,
            metrics=self.metrics,
            tracer=self.tracer,
        )

    def dependencies(self) -> dict[str, Provide]:
        """Those that handlers ask for, by the names of their parameters."""
        parts = {
            "settings": self.settings,
            "database": self.database,
            "placement": self.placement,
            "intake": self.intake,
            "archive": self.archive,
            "courier": self.courier,
            "streams": self.streams,
            "blobs": self.blobs,
            "probe": self.probe,
            "scrapes": self.scrapes,
        }
        return {name: _provide(part) for name, part in parts.items()} | session_dependency(self.database)


def create_app(settings: Settings, *, worker: bool = False) -> Litestar:
    """Build the service, with a worker in its process if asked for.

    Nothing is connected before the application's lifespan begins.
    """
    parts = Components(settings)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with parts.open(), parts.worker().open() if worker else nullcontext():
            yield

    async def wake_dispatcher(request: Request[Any, Any, Any]) -> None:
        """Must never raise: the server would close the client's connection."""
        if request.method != "GET":
            parts.courier.wake()

    keyring = KeyAuthenticator(parts.database, secret=settings.secret, cache_max=settings.key_cache_max)
    quota = RateLimiter(settings.rate_limit) if settings.rate_limit else None
    metrics = Router("/metrics", route_handlers=[MetricsController], opt=METRICS_ACCESS[settings.metrics])
    app = Litestar(
        route_handlers=[*CONTROLLERS, metrics],
        dependencies=parts.dependencies(),
        middleware=[AuthMiddleware(keyring, quota)],
        exception_handlers=exception_handlers(catalog.FAULT_BY_CONSTRAINT),
        after_response=wake_dispatcher,
        lifespan=[lifespan],
        request_class=StrictRequest,
        response_class=Reply,
        request_max_body_size=settings.body_bytes_max,
        openapi_config=openapi_config(),
        logging_config=None,
    )
    app.state.settings = settings
    app.state.admission = parts.admission
    app.state.metrics = parts.metrics
    app.state.probe = parts.probe
    app.state.kinds = parts.kinds
    # No dependency: with two of them, Litestar starts a task for each (100 µs a request).
    app.state.claims_in_progress = set()
    app.asgi_handler = _wrap_asgi_handler(app, parts)
    return app


def _wrap_asgi_handler(app: Litestar, parts: Components) -> ASGIApp:
    """Around all of Litestar: what it would not answer by the contract, or would answer too late."""
    settings = parts.settings
    envelope = RequestMiddleware(
        app,
        parts.admission,
        TrustPolicy(settings.allowed_hosts, settings.trusted_proxies),
        draining=parts.draining,
        log_access=access_log(settings.log),
        metrics=parts.metrics,
        tracer=parts.tracer,
    )
    return CorsMiddleware(envelope, settings.cors_origins) if settings.cors_origins else envelope


def _provide(part: Any) -> Provide:
    return Provide(lambda: part, sync_to_thread=False)
