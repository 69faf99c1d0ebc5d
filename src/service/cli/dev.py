"""What `depot dev` adds to make one command enough: a database, a key, and a greeting."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.auth.middleware import KeyAuthenticator
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

Ctrl-C stops everything.
"""


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """The configured database, or the embedded one, started if need be."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    try:
        from service.database.embedded import postgres
    except ImportError:
        raise StartupError(
            "DATABASE_URL is not set, and embedded PostgreSQL is not installed (pip install 'depot[local]')"
        ) from None
    with postgres(settings.home.resolve()) as url:
        yield url


async def ensure_development_key(database: Database, settings: Settings) -> str:
    """The key in `$DEPOT_HOME/api-key`; made when there is none or this database does not know it."""
    path = key_file(settings)
    stored = path.read_text().strip() if path.exists() else ""
    authenticator = KeyAuthenticator(database, secret=settings.secret, cache_max=1)
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
