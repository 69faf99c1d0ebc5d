"""Commands that run until they are stopped, and the migration before them."""

import os

import rich_click as click
from msgspec.structs import replace

from service.cli.environment import (
    ping,
    report_database_errors,
    require_database_url,
    run,
    settings_from_environment,
)


@click.command()
def dev() -> None:
    """All in one process on this machine: embedded PostgreSQL, migrations, a key, the API, a worker."""
    from service.app import create_app
    from service.cli.dev import banner, database_url, ensure_development_key
    from service.database import migrate
    from service.server.processes import Server, bind

    settings = settings_from_environment("console")
    if "DEPOT_DRAIN_SECONDS" not in os.environ:
        settings = replace(settings, drain_seconds=0)
    if "DEPOT_WEBHOOK_ALLOW_PRIVATE" not in os.environ:
        settings = replace(settings, webhook_allow_private=True)
    if "DEPOT_JOB_TEST_KINDS" not in os.environ:
        settings = replace(settings, job_test_kinds=True)
    settings.home.mkdir(parents=True, exist_ok=True)
    with bind(settings) as listener, database_url(settings) as url:
        settings = replace(settings, database_url=url, port=listener.getsockname()[1])
        with report_database_errors():
            migrate.upgrade(settings)
        key = run(settings, lambda database: ensure_development_key(database, settings))
        app = create_app(settings, worker=True)
        Server(app, settings, lambda: click.echo(banner(settings, key))).run(sockets=[listener])


@click.command()
@click.option("--host", help="Address to listen on (HOST).")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on (PORT).")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
def serve(host: str | None, port: int | None, workers: int) -> None:
    """The API, for production. Never migrates by itself."""
    from service.server import processes

    settings = require_database_url(settings_from_environment("json"))
    settings = replace(settings, host=host or settings.host, port=settings.port if port is None else port)
    run(settings, ping)
    with processes.bind(settings) as listener:
        if workers > 1:
            processes.serve_workers(settings, listener, workers)
        else:
            processes.serve(settings, listener)


@click.command()
@click.option("--concurrency", type=click.IntRange(1, 1000), help="Jobs at once (DEPOT_WORKER_CONCURRENCY).")
def worker(concurrency: int | None) -> None:
    """Queued jobs, webhooks and upkeep, for production: as many workers as you like, on any machines."""
    from service.health.metrics_endpoint import serve_worker_metrics
    from service.observability.metrics import Metrics
    from service.observability.tracer_factory import create_tracer
    from service.worker import run_worker

    settings = require_database_url(settings_from_environment("json"))
    settings = replace(settings, worker_concurrency=concurrency or settings.worker_concurrency)
    metrics, told = Metrics(), create_tracer(settings.traces_url, settings.traces_ratio)
    serve_worker_metrics(metrics, settings)
    run(settings, lambda database: run_worker(settings, database, metrics, told), metrics, told)


@click.command()
@click.argument("revision", default="head")
def migrate(revision: str) -> None:
    """Bring the database's schema up to date (or to REVISION). Replicas may all run this at once."""
    from alembic.util import CommandError

    from service.database import migrate as migrations

    settings = require_database_url(settings_from_environment("json"))
    with report_database_errors():
        try:
            migrations.upgrade(settings, revision)
        except CommandError as error:
            raise click.ClickException(str(error)) from None


COMMANDS = (dev, serve, worker, migrate)
