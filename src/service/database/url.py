"""Parameters of `DATABASE_URL` that libpq knows and asyncpg does not.

Hosting providers hand out URLs for libpq. asyncpg would send an unknown parameter to the server
as a setting, and the server would reject the connection.
"""

import ssl
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog

from service.settings import StartupError

log = structlog.get_logger()

DROPPED = frozenset(
    [
        *(
            "client_encoding",
            "connect_timeout",
            "fallback_application_name",
            "hostaddr",
            "load_balance_hosts",
        ),
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


def split_parameters(url: str) -> tuple[str, dict[str, Any]]:
    """Return the URL for asyncpg, and options for `asyncpg.connect`.

    Raises `StartupError` if a parameter that protects the connection would be dropped.
    """
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    dropped = {name: value for name, value in parameters.items() if name in DROPPED}
    for name, value in dropped.items():
        if value not in HARMLESS_VALUES.get(name, {value}):
            raise StartupError(
                f"DATABASE_URL: {name}={value} is not supported; remove it if the connection does not need it"
            )
    if dropped:
        _report_dropped(tuple(dropped))
    options: dict[str, Any] = {}
    if parameters.get("sslrootcert") == "system":  # the certificates that the system trusts (libpq 16)
        options["ssl"] = ssl.create_default_context()
        dropped |= {"sslrootcert": "", "sslmode": ""}
    if not dropped:
        return url, options
    remaining = {name: value for name, value in parameters.items() if name not in dropped}
    return parts._replace(query=urlencode(remaining)).geturl(), options


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
