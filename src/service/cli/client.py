"""Commands for who writes a client: the API's description, and the events it tells of."""

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
@click.option("--url", help="The API.  [default: at HOST and PORT]")
@click.option("--key", help="An API key.  [default: what is in $DEPOT_HOME/api-key]")
@click.option("--event", "events", multiple=True, metavar="TYPE", help="item.updated, …  [default: all]")
def listen(url: str | None, key: str | None, events: tuple[str, ...]) -> None:
    """Print the events webhooks are told of, as they arrive at a receiver on this machine.

    The service has to allow private targets, as `depot dev` does.
    """
    from typing import get_args

    from service.cli.dev import key_file
    from service.cli.listen import listen as listening
    from service.events.journal import EventType

    settings = settings_from_environment("console")
    if key is None and not key_file(settings).exists():
        raise StartupError(f"there is no {key_file(settings)}: name a --key")
    work = listening(
        url or f"http://{settings.host}:{settings.port}",
        key or key_file(settings).read_text().strip(),
        events or get_args(EventType),
        click.echo,
    )
    asyncio.run(work)


COMMANDS = (openapi, listen)
