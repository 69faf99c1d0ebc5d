"""Long-running commands, and the migration."""

import os

import rich_click as click
from msgspec.structs import replace

from service.cli.environment import (
    CommandError,
    administrative_settings,
    check_database,
    report_database_errors,
    require_database_url,
    run_with_database,
    settings_from_environment,
)


@click.command()
def dev() -> None:
    """Run everything in one process for development: embedded PostgreSQL, migrations, an API key, the API
    and a worker."""
    from service.app import create_app
    from service.cli.dev import banner, database_url, ensure_development_key, usable_home
    from service.database import migrate
    from service.server.processes import Server, bind

    settings = settings_from_environment("console")
    if "DEPOT_DRAIN_SECONDS" not in os.environ:
        settings = replace(settings, drain_seconds=0)
    if "DEPOT_WEBHOOK_ALLOW_PRIVATE" not in os.environ:
        settings = replace(settings, webhook_allow_private=True)
    if "DEPOT_JOB_TEST_KINDS" not in os.environ:
        settings = replace(settings, job_test_kinds=True)
    usable_home(settings)
    with bind(settings) as listener, database_url(settings) as url:
        settings = replace(settings, database_url=url, port=listener.getsockname()[1])
        with report_database_errors():
            migrate.upgrade(settings)
        key = run_with_database(settings, lambda database: ensure_development_key(database, settings))
        app = create_app(settings, worker=True)
        Server(app, settings, lambda: click.echo(banner(settings, key))).run(sockets=[listener])


@click.command()
@click.option("--host", help="Address to listen on.  [default: HOST or 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help="Port to listen on; 0 takes a free one.  [default: PORT or 8000]",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of processes."
)
def serve(host: str | None, port: int | None, workers: int) -> None:
    """Run the API in production. It does not run migrations; use `depot migrate`."""
    from service.server import processes

    settings = require_database_url(settings_from_environment("json"))
    settings = replace(settings, host=host or settings.host, port=settings.port if port is None else port)
    check_database(settings)
    with processes.bind(settings) as listener:
        if workers > 1:
            processes.serve_workers(settings, listener, workers)
        else:
            processes.serve(settings, listener)


@click.command()
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    help="Number of concurrent jobs.  [default: DEPOT_WORKER_CONCURRENCY or 10]",
)
def worker(concurrency: int | None) -> None:
    """Run a worker in production: jobs, webhook deliveries and maintenance. Run as many as you like, on any
    machine."""
    from service.health.metrics_endpoint import serve_worker_metrics
    from service.observability.metrics import Metrics
    from service.observability.tracer_factory import create_tracer
    from service.worker import run_worker

    settings = require_database_url(settings_from_environment("json"))
    settings = replace(settings, worker_concurrency=concurrency or settings.worker_concurrency)
    check_database(settings)
    metrics, tracer = Metrics(), create_tracer(settings.traces_url, settings.traces_ratio)
    serve_worker_metrics(metrics, settings)
    run_with_database(
        settings, lambda database: run_worker(settings, database, metrics, tracer), metrics, tracer
    )


@click.command()
@click.argument("revision", default="head")
def migrate(revision: str) -> None:
    """Migrate the database schema to the latest revision or to REVISION. Safe to run from several replicas
    at the same time."""
    from service.database import migrate as migrations
    from service.database.database import SCHEMA

    with administrative_settings() as settings, report_database_errors():
        before = migrations.current_revision(settings)
        try:
            migrations.upgrade(settings, revision)
        except migrations.UnknownRevision:
            raise CommandError(f"there is no revision {revision}; use head or 0001 to {SCHEMA}") from None
        after = migrations.current_revision(settings)
    if before == after:
        newer = f", which is newer than this version's {SCHEMA}" if (after or "") > SCHEMA else ""
        click.echo(f"the schema is already at {after}{newer}; nothing was changed")
    else:
        click.echo(f"the schema was migrated from {before or 'nothing'} to {after}")


COMMANDS = (dev, serve, worker, migrate)
