"""The URLs of the settings, as asyncpg accepts them.

Hosting providers hand out URLs for libpq. asyncpg would send a parameter that it does not know to the server
as a setting, and the server would reject the connection.
"""

import ssl
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog
from msgspec.structs import replace

from service.settings import Settings, StartupError

log = structlog.get_logger()

DROPPED = frozenset(
    [
        *("client_encoding", "connect_timeout", "fallback_application_name", "hostaddr"),
        *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout"),
        *("channel_binding", "gssdelegation", "gssencmode", "require_auth", "requirepeer"),
        *("load_balance_hosts", "sslcertmode", "sslcompression", "sslcrldir", "sslkeylogfile", "sslsni"),
    ]
)
HARMLESS_VALUES = {
    "channel_binding": {"disable", "prefer"},
    "gssencmode": {"disable", "prefer"},
    "sslcertmode": {"disable", "allow"},
    "require_auth": set[str](),
    "requirepeer": set[str](),
    "sslcrldir": set[str](),
}
"""Parameters that protect the connection, and their values that require nothing. A URL with any other value
is rejected, because dropping it would weaken the connection."""

CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
"""The values of parameters whose errors asyncpg reports only when it connects."""
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Parameters that name a file, which asyncpg reads for each connection. Its error does not name the file."""


def dsn(settings: Settings) -> str:
    """Return the URL in asyncpg's form; SQLAlchemy's `postgresql+asyncpg://` is accepted too."""
    if settings.database_url is None:
        raise ValueError("DATABASE_URL is not set")
    return _asyncpg_url(settings.database_url)


def direct_dsn(settings: Settings) -> str:
    """Return the URL that bypasses a transaction-mode pooler."""
    return _asyncpg_url(settings.direct_database_url or dsn(settings))


def standby_settings(settings: Settings) -> Settings | None:
    """Return the settings of the standby's pool, which refuses a server that was promoted."""
    if settings.read_database_url is None:
        return None
    url = with_parameter(settings.read_database_url, "target_session_attrs", "standby")
    return replace(settings, database_url=url, direct_database_url=None, read_database_url=None)


def split_parameters(url: str) -> tuple[str, dict[str, Any]]:
    """Return the URL for asyncpg, and options for `asyncpg.connect`. Raises `StartupError`."""
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    _check_parameters(parameters)
    dropped = parameters.keys() & DROPPED
    if dropped:
        _report_dropped(tuple(name for name in parameters if name in dropped))
    options: dict[str, Any] = {}
    if parameters.get("sslrootcert") == "system":  # the certificates that the system trusts (libpq 16)
        options["ssl"] = ssl.create_default_context()
        dropped |= {"sslrootcert", "sslmode"}
    remaining = {name: value for name, value in parameters.items() if name not in dropped}
    if missing := tuple(name for name in FILES if name in remaining and not Path(remaining[name]).is_file()):
        _report_missing(missing)
    return parts._replace(query=urlencode(remaining)).geturl() if dropped else url, options


def _check_parameters(parameters: Mapping[str, str]) -> None:
    """Raise `StartupError` if a value is unknown, or if dropping it would weaken the connection."""
    for name, value in parameters.items():
        if value not in CHOICES.get(name, {value}):
            raise StartupError(f"DATABASE_URL: {name} must be one of {', '.join(CHOICES[name])}")
        if value not in HARMLESS_VALUES.get(name, {value}):
            raise StartupError(
                f"DATABASE_URL: {name}={value} is not supported; remove it if the connection does not need it"
            )


def with_parameter(url: str, name: str, value: str) -> str:
    """Return the URL with a parameter, unless it has one of this name."""
    parts = urlsplit(url)
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    if name in dict(parameters):
        return url
    return parts._replace(query=urlencode([*parameters, (name, value)])).geturl()


@cache
def _report_dropped(names: tuple[str, ...]) -> None:
    log.info("database_url_parameters_ignored", parameters=names)


@cache
def _report_missing(names: tuple[str, ...]) -> None:
    log.warning("database_url_files_missing", parameters=names)


def _asyncpg_url(url: str) -> str:
    return url.replace("+asyncpg://", "://", 1)
