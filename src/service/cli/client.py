"""Commands for developers of clients: the API's description, and its events."""

import asyncio
import sys

import rich_click as click

from service.cli.environment import settings_from_environment
from service.settings import Settings, StartupError


@click.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from service.app import create_app
    from service.docs import encode_document

    app = create_app(Settings(database_url="postgresql://unused"))
    sys.stdout.buffer.write(encode_document(app) + b"\n")


@click.command()
@click.option("--url", help="Base URL of the API.  [default: http://HOST:PORT]")
@click.option("--key", help="API key.  [default: content of $DEPOT_HOME/api-key]")
@click.option(
    "--event",
    "events",
    multiple=True,
    metavar="TYPE",
    help="Event type, such as item.updated; repeatable.  [default: all]",
)
def listen(url: str | None, key: str | None, events: tuple[str, ...]) -> None:
    """Register a local webhook receiver and print each event as it arrives.

    The service must allow private webhook targets, as `depot dev` does.
    """
    from service.cli.dev import key_file
    from service.cli.listen import listen as run_listener
    from service.events.journal import ALL_EVENTS

    settings = settings_from_environment("console")
    if key is None and not key_file(settings).exists():
        raise StartupError(f"{key_file(settings)} does not exist; pass an API key with --key")
    work = run_listener(
        url or f"http://{settings.host}:{settings.port}",
        key or key_file(settings).read_text().strip(),
        events or [ALL_EVENTS],
        click.echo,
    )
    asyncio.run(work)


COMMANDS = (openapi, listen)
