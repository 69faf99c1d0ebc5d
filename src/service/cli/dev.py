"""Support for `depot dev`: a database, an API key and a startup banner."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.auth.authenticator import KeyAuthenticator
from service.auth.store import create_key
from service.database.database import Database
from service.errors import Unauthenticated
from service.settings import Settings, StartupError

BANNER = """
Depot is ready.

  API       {url}
  Docs      {url}/docs
  API key   {key_file}

Try it:

  curl -s {url}/items -H 'Authorization: Bearer {key}'

Press Ctrl-C to stop.
"""


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """Yield the URL of the configured database, or start the embedded one in `DEPOT_HOME`."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    from service.database.embedded import postgres

    with postgres(usable_home(settings)) as url:
        yield url


def usable_home(settings: Settings) -> Path:
    """Return `DEPOT_HOME`, which is created if it is missing."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"cannot create DEPOT_HOME {settings.home}: {error.strerror}") from None
    if not os.access(settings.home, os.R_OK | os.W_OK | os.X_OK):
        raise StartupError(
            f"DEPOT_HOME {settings.home} belongs to another user; set it to a directory of your own"
        )
    return settings.home.resolve()


async def ensure_development_key(database: Database, settings: Settings) -> str:
    """Return the key in `$DEPOT_HOME/api-key`.

    Create one if the file is missing or this database does not know the key.
    """
    path = key_file(settings)
    stored = path.read_text().strip() if path.exists() else ""
    authenticator = KeyAuthenticator(
        database, secret=settings.secret, previous_secret=settings.secret_previous, cache_max=1
    )
    try:
        await authenticator.authenticate(f"Bearer {stored}")
    except Unauthenticated:
        async with database.orm_session() as session:
            key = await create_key(session, name="development", scopes=["admin"], secret=settings.secret)
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(f"{key}\n")
        return key
    return stored


def banner(settings: Settings, key: str) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return BANNER.format(url=f"http://{host}:{settings.port}", key_file=key_file(settings), key=key)


def key_file(settings: Settings) -> Path:
    return settings.home / "api-key"
