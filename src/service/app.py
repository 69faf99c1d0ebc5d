"""The application: all wiring, readable from top to bottom."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from litestar import Litestar, Request, Router
from litestar.di import Provide

from service.audit.controller import AuditController
from service.auth.guard import Guard, Keyring
from service.auth.quota import Quota
from service.blobs import blobs
from service.db import Database, session_dependency
from service.docs import DocsController, openapi_config
from service.documents.archive import Archive
from service.documents.controller import DocumentController, UploadController
from service.documents.intake import Intake
from service.health import HealthController, Probe
from service.http.admission import Admission
from service.http.body import StrictRequest
from service.http.cors import Cors
from service.http.envelope import Envelope
from service.http.faults import exception_handlers
from service.http.reply import Reply
from service.http.trust import Trust
from service.items import catalog
from service.items.controller import ItemController
from service.jobs.controller import JobController, ProcessController
from service.jobs.streams import Streams
from service.metrics import Figures, MetricsController, Scrapes
from service.orders.controller import OrderController
from service.orders.placement import Placement
from service.reports.controller import ReportController
from service.resources.controller import ResourceController
from service.settings import Settings
from service.telemetry.logs import access_log
from service.telemetry.meters import Meters
from service.telemetry.traces import traces
from service.users.controller import UserController
from service.webhooks.controller import WebhookController
from service.webhooks.courier import Courier
from service.worker import Worker, kinds

WORKER_GRACE_SECONDS = 0.5
"""What jobs get to end in when Ctrl-C stops a worker in the process of the API; they are begun again then."""
METRICS: dict[str, dict[str, Any]] = {
    "open": {"public": True},
    "key": {"scope": "metrics:read", "outlives_database": True},
}
"""Who may read `GET /metrics`."""


def create_app(settings: Settings, *, worker: bool = False) -> Litestar:
    """Build the service, with a worker in its process if asked for.

    Nothing is connected before the application's lifespan begins.
    """
    meters = Meters()
    trail = traces(settings.traces_url, settings.traces_ratio)
    database = Database(settings, meters, trail)
    store = blobs(settings)
    probe = Probe(database, store, timeout_seconds=settings.health_timeout_seconds)
    keyring = Keyring(database, secret=settings.secret, cache_max=settings.key_cache_max)
    quota = Quota(settings.rate_limit) if settings.rate_limit else None
    admission = Admission(
        in_flight_min=settings.in_flight_min,
        in_flight_max=settings.in_flight_max,
        delay_seconds=settings.overload_delay_seconds,
        timeout_seconds=settings.request_timeout_seconds,
    )
    placement = Placement(
        database,
        queue_max=settings.placement_queue_max,
        batch_max=settings.placement_batch_max,
        flushes_max=settings.placement_flushes_max,
        meters=meters,
        traces=trail,
    )
    intake = Intake(settings, meters)
    archive = Archive(database, store, settings)
    courier = Courier(database, settings, meters=meters)
    known = kinds(settings)
    scrapes = Scrapes(meters, Figures(database, known))
    streams = Streams(database, streams_max=settings.job_streams_max, draining=lambda: probe.draining)
    meters.watch(meters.streams, lambda: len(streams))

    def working() -> AbstractAsyncContextManager[None]:
        if not worker:
            return nullcontext()
        in_process = Worker(
            settings,
            database,
            known,
            on_end=courier.wake,
            grace_seconds=WORKER_GRACE_SECONDS,
            meters=meters,
            traces=trail,
        )
        return in_process.open()

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with (
            trail.open(),
            database.open(),
            meters.open(),
            probe.open(),
            scrapes.open(),
            admission.open(),
            placement.open(),
            courier.open(),
            streams.open(),
            working(),
        ):
            yield

    async def deliver_at_once(request: Request[Any, Any, Any]) -> None:
        """Must never raise: the server would close the client's connection."""
        if request.method != "GET":
            courier.wake()

    app = Litestar(
        route_handlers=[
            HealthController,
            Router("/metrics", route_handlers=[MetricsController], opt=METRICS[settings.metrics]),
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
        ],
        dependencies={
            "settings": Provide(lambda: settings, sync_to_thread=False),
            "database": Provide(lambda: database, sync_to_thread=False),
            "placement": Provide(lambda: placement, sync_to_thread=False),
            "intake": Provide(lambda: intake, sync_to_thread=False),
            "archive": Provide(lambda: archive, sync_to_thread=False),
            "courier": Provide(lambda: courier, sync_to_thread=False),
            "streams": Provide(lambda: streams, sync_to_thread=False),
            "blobs": Provide(lambda: store, sync_to_thread=False),
            "probe": Provide(lambda: probe, sync_to_thread=False),
            "scrapes": Provide(lambda: scrapes, sync_to_thread=False),
            **session_dependency(database),
        },
        middleware=[Guard(keyring, quota)],
        exception_handlers=exception_handlers(catalog.FAULTS),
        after_response=deliver_at_once,
        lifespan=[lifespan],
        request_class=StrictRequest,
        response_class=Reply,
        request_max_body_size=settings.body_bytes_max,
        openapi_config=openapi_config(),
        logging_config=None,
    )
    app.state.settings = settings
    app.state.admission = admission
    app.state.meters = meters
    app.state.probe = probe
    app.state.kinds = known
    app.state.claims = (
        set()
    )  # no dependency: with two of them, Litestar starts a task for each (100 µs a request)
    app.asgi_handler = Envelope(
        app,
        admission,
        Trust(settings.allowed_hosts, settings.trusted_proxies),
        draining=lambda: probe.draining,
        log_access=access_log(settings.log),
        meters=meters,
        traces=trail,
    )
    if settings.cors_origins:
        app.asgi_handler = Cors(app.asgi_handler, settings.cors_origins)
    return app
