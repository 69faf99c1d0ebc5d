"""The application: all wiring, readable from top to bottom."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.di import Provide

from service.auth.guard import Guard, Keyring
from service.db import Database, session_dependency
from service.docs import DocsController, openapi_config
from service.health import HealthController, Probe
from service.http.body import StrictRequest
from service.http.envelope import Envelope
from service.http.faults import exception_handlers
from service.http.idempotency import Claims
from service.http.reply import Reply
from service.items import catalog
from service.items.controller import ItemController
from service.orders.controller import OrderController
from service.orders.placement import Placement
from service.resources.controller import ResourceController
from service.settings import Settings
from service.telemetry import access_log


def create_app(settings: Settings) -> Litestar:
    """Build the service. Nothing is connected before the application's lifespan begins."""
    database = Database(settings)
    probe = Probe(database, timeout_seconds=settings.health_timeout_seconds)
    keyring = Keyring(database, secret=settings.secret, cache_max=settings.key_cache_max)
    claims = Claims()
    placement = Placement(
        database,
        queue_max=settings.placement_queue_max,
        batch_max=settings.placement_batch_max,
        flushes_max=settings.placement_flushes_max,
    )

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with database.open(), probe.open(), placement.open():
            yield

    app = Litestar(
        route_handlers=[
            HealthController,
            DocsController,
            ItemController,
            OrderController,
            ResourceController,
        ],
        dependencies={
            "database": Provide(lambda: database, sync_to_thread=False),
            "claims": Provide(lambda: claims, sync_to_thread=False),
            "placement": Provide(lambda: placement, sync_to_thread=False),
            "probe": Provide(lambda: probe, sync_to_thread=False),
            **session_dependency(database),
        },
        middleware=[Guard(keyring)],
        exception_handlers=exception_handlers(catalog.FAULTS),
        lifespan=[lifespan],
        request_class=StrictRequest,
        response_class=Reply,
        request_max_body_size=settings.body_bytes_max,
        openapi_config=openapi_config(),
        logging_config=None,
    )
    app.state.probe = probe
    app.asgi_handler = Envelope(
        app, in_flight_max=settings.in_flight_max, log_access=access_log(settings.log)
    )
    return app
