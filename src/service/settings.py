"""All settings and limits, parsed once from the environment."""

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from service.constraints import describe_error
from service.values import Currency

PREFIX = "DEPOT_"
DatabaseUrl = Annotated[
    str,
    Meta(
        pattern=r"^postgres(ql)?(\+asyncpg)?://", extra={"expected": "a URL that starts with postgresql://"}
    ),
]
DATABASE_URLS = {"DATABASE_URL", "DEPOT_DIRECT_DATABASE_URL", "DEPOT_READ_DATABASE_URL"}
SECRET_SETTINGS = {*DATABASE_URLS, "DEPOT_SECRET", "DEPOT_SECRET_PREVIOUS", "DEPOT_RATE_LIMIT_STORE"}
UNPREFIXED = {"host": "HOST", "port": "PORT", "database_url": "DATABASE_URL"}
PASSWORD_PATTERNS = (r"://[^:@]*:(.*?)@", r"://[^:@]*:(.*)@", r"[?&]password=([^&]*)")
"""Patterns for the password in a URL, which may be malformed: a special character is not percent-encoded."""

PORT_MAX = 65_535
HOST_PATTERN = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]{1,5})?")

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=2**40)]
Connections = Annotated[int, Meta(ge=1, le=1000)]
Names = tuple[
    Annotated[str, Meta(pattern=r"^[^\s,]+$", extra={"expected": "names separated by commas"})], ...
]
Origins = tuple[
    Annotated[
        str,
        Meta(
            pattern=(
                r"^([*]|null|(?!http://[^/]*:80$)(?!https://[^/]*:443$)"
                r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(:[0-9]+)?|https?://\[[0-9a-f:.]+\](:[0-9]+)?)$"
            ),
            extra={
                "expected": "origins as browsers send them, such as https://shop.example: "
                "in lowercase, without a default port, a path or a slash at the end"
            },
        ),
    ],
    ...,
]
Networks = tuple[Annotated[str, Meta(description="An address or a network")], ...]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Rate = Annotated[
    str,
    Meta(
        pattern=r"^[1-9][0-9]{0,8}/(second|minute|hour|day)\Z",
        extra={"expected": "a rate such as 600/minute"},
    ),
]


class StartupError(Exception):
    """A reason why the service cannot start. Its text is one line for the operator."""


def os_reason(error: OSError) -> str:
    """Return the reason of a failed connection or listener, for the text of a `StartupError`.

    Python's own text contains addresses as tuples. If a host has several addresses, the number of each
    attempt's error is only in that text.
    """
    if isinstance(error, TimeoutError):
        return "it does not respond in time"
    if type(error).__module__ != "builtins":  # errors of name resolution and TLS have numbers of their own
        return error.strerror or str(error)
    numbers = {error.errno} if error.errno else {int(text) for text in re.findall(r"Errno (\d+)", str(error))}
    return ", ".join(map(os.strerror, sorted(numbers))) or str(error)


class SettingsError(StartupError):
    """An invalid or unknown setting."""


class Settings(Struct, frozen=True, kw_only=True):
    """The settings. `pool_size` is read from `DEPOT_POOL_SIZE`, but `host`, `port` and `database_url`
    have no prefix."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    allowed_hosts: Names = ()
    """Accepted `Host` names; empty accepts any. Comma-separated, like all lists."""
    cors_origins: Origins = ()
    """Origins whose web pages may call the API, such as `https://shop.example`; empty allows none."""
    trusted_proxies: Networks = ()
    """Proxies whose `X-Forwarded-For` is trusted: addresses or networks, such as `10.0.0.0/8`."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    database_url: DatabaseUrl | None = None
    """May list several servers; `target_session_attrs=read-write` selects the primary."""
    direct_database_url: DatabaseUrl | None = None
    """URL that bypasses the pooler, for LISTEN, migrations and long-running work."""
    read_database_url: DatabaseUrl | None = None
    """A standby for reports, exports and `depot doctor`, which then may miss the latest changes; unset reads
    them from the primary."""

    home: Path = Path(".depot")
    log: Literal["json", "console"] = "json"
    metrics: Literal["key", "open"] = "key"
    """Whether `GET /metrics` requires a key with the scope `metrics:read`."""
    worker_metrics_port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    """Port on `host` where `depot worker` serves metrics without a key; unset disables it."""
    traces_url: (
        Annotated[str, Meta(pattern=r"^https?://[^/]", extra={"expected": "an http or https URL"})] | None
    ) = None
    """OTLP/HTTP endpoint, such as `http://collector:4318/v1/traces`; unset disables tracing."""
    traces_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Sampling ratio of traces that start here; a caller's sampling decision is honored."""
    secret: Annotated[str, Meta(min_length=32)] | None = None
    """Secret that keys the hashes of API keys and the audit chain; unset uses a random stored one."""
    secret_previous: Annotated[str, Meta(min_length=32)] | None = None
    """Former `DEPOT_SECRET`, under which keys and seals stay valid while it is changed."""

    statement_cache_size: Annotated[int, Meta(ge=0, le=10_000)] = 100
    """Prepared statements per connection; 0 behind a PgBouncer that does not support them (before 1.21)."""
    pool_size: Connections = 16
    records_pool_size: Connections = 4
    """Size of SQLAlchemy's pool, which serves simple records (resources, keys, webhooks)."""
    pool_wait_seconds: Seconds = 1.0
    connect_timeout_seconds: Seconds = 3.0
    statement_timeout_seconds: Seconds = 5.0
    idle_transaction_timeout_seconds: Seconds = 10.0
    health_timeout_seconds: Annotated[float, Meta(gt=0, le=0.9)] = 0.8

    drain_seconds: Seconds = 5.0
    shutdown_timeout_seconds: Seconds = 25.0
    """Seconds that requests in flight get to finish after draining."""
    keepalive_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 75
    """Keep-alive timeout. It must exceed the load balancer's idle time (usually 60 s), or the balancer
    uses connections that are already closed."""

    in_flight_max: Count = 1024
    """Maximum requests in flight per process; lower under sustained load and while more clients wait."""
    in_flight_min: Count = 256
    """The limit never falls below this, however long requests take."""
    overload_delay_seconds: Annotated[float, Meta(gt=0, le=60)] = 0.25
    """Latency target: if the median request takes longer, only as many are admitted as can meet it."""
    request_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 15.0
    """Request deadline, then 504. Uploads and streams have deadlines of their own."""
    read_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 20.0
    """Time for a complete request to arrive, counted from its first byte."""
    write_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """Time for a client to read the buffered reply (at most 64 KiB)."""
    connections_max: Count = 8192
    """Maximum open connections per process."""
    head_bytes_max: Annotated[int, Meta(ge=1024, le=2**30)] = 32_768
    """Maximum size of a request's target and headers; twice what load balancers allow."""
    rate_limit: Rate | None = None
    """Requests that an API key without a limit of its own may make, such as `600/minute`; unset means no
    limit."""
    rate_limit_store: (
        Annotated[
            str,
            Meta(
                pattern=r"^rediss?://[^/?#]+(/[0-9]{0,5})?\Z",
                extra={"expected": "a URL such as redis://host:6379/0"},
            ),
        ]
        | None
    ) = None
    """Redis or Valkey that counts the requests of all processes; unset counts in each process."""
    body_bytes_max: Bytes = 262_144
    placement_queue_max: Count = 2048
    placement_batch_max: Annotated[int, Meta(ge=1, le=1000)] = 256
    placement_flushes_max: Annotated[int, Meta(ge=1, le=8)] = 2
    placement_lock_seconds: Annotated[float, Meta(ge=0.01, le=60)] = 0.25
    """Time that a commit of orders waits for item locks. Orders of items locked longer wait separately."""
    currency: Currency = "USD"
    """Currency of new items that name none."""
    key_cache_max: Count = 10_000

    blob_url: (
        Annotated[
            str,
            Meta(
                pattern=r"^(file|s3)://.+",
                extra={"expected": "a URL such as file:///var/lib/depot or s3://bucket/prefix"},
            ),
        ]
        | None
    ) = None
    """URL of the blob store; unset uses `file://$DEPOT_HOME/blobs`."""
    blob_puts_max: Annotated[int, Meta(ge=1, le=100)] = 4
    """Concurrent blob writes per process; on S3 each is held in memory."""
    orphan_kept_seconds: Annotated[float, Meta(ge=600, le=31_536_000)] = 86_400.0
    """Age at which an unreferenced blob is deleted; the blob of an upload in progress has no row yet."""

    document_bytes_max: Bytes = 5_242_880
    upload_bytes_max: Bytes = 5_000_000
    """Maximum file size of `POST /upload`."""
    uploads_max: Count = 200
    """Concurrent uploads per process; each uses space in the directory for temporary files."""
    upload_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 120.0
    document_inspections_max: Annotated[int, Meta(ge=1, le=64)] = 2
    """Documents that one worker decodes at the same time, each in a process."""
    document_pixels_max: Annotated[int, Meta(ge=1, le=2**31)] = 50_000_000
    document_memory_bytes_max: Bytes = 805_306_368
    document_cpu_seconds_max: Annotated[int, Meta(ge=1, le=3600)] = 20
    """CPU time for decoding one document, which is rejected if it takes more."""

    webhook_allow_private: bool = False
    webhook_timeout_seconds: Annotated[float, Meta(gt=0, le=60)] = 15.0
    webhook_lane_max: Annotated[int, Meta(ge=1, le=100)] = 8
    """Concurrent deliveries of a process to the same webhook, so that a slow receiver delays no other."""
    webhook_poll_seconds: Annotated[float, Meta(gt=0, le=60)] = 1.0
    """Interval of polls for deliveries left by other processes or due for a retry."""
    webhook_secret_overlap_seconds: Annotated[float, Meta(ge=0, le=604_800)] = 86_400.0
    """Time for which the old secret also signs after a rotation."""
    webhooks_max: Count = 100
    delivery_kept_days: Count = 30

    worker_concurrency: Annotated[int, Meta(ge=1, le=1000)] = 10
    job_attempts_max: Annotated[int, Meta(ge=1, le=100)] = 5
    job_heartbeat_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """Time without a heartbeat after which another worker takes a job over."""
    job_kept_days: Count = 30
    job_streams_max: Count = 200
    """Maximum open event streams of jobs (`GET /jobs/{id}/events`) per process."""
    job_test_kinds: bool = False
    """Whether the job kind `system.sleep` exists, for tests and `depot dev`."""

    def secrets(self) -> set[str]:
        """Return the values to redact from logs, in plain and URL-decoded form."""
        databases = (self.database_url, self.direct_database_url, self.read_database_url)
        urls = [url for url in (*databases, self.rate_limit_store) if url]
        secrets = {self.secret or "", self.secret_previous or ""}.union(
            *(re.findall(pattern, url) for pattern in PASSWORD_PATTERNS for url in urls)
        )
        return (secrets | {unquote(text) for text in secrets}) - {""}


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the environment. Raises `SettingsError` for the first invalid or unknown setting."""
    known = {UNPREFIXED.get(f.name, PREFIX + f.name.upper()): f for f in fields(Settings)}
    configured = {name: value for name, value in environ.items() if name in known and value != ""}
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            raise SettingsError(f"{name} is not a setting of Depot{_hint(name, known)}")
    for name in configured.keys() & {*DATABASE_URLS, "DEPOT_RATE_LIMIT_STORE"}:
        _check_url(name, configured[name])
    return Settings(
        **{known[name].name: _convert(name, text, known[name].type) for name, text in configured.items()}
    )


def _hint(name: str, known: Iterable[str]) -> str:
    """Return what to do about an unknown setting: use the nearest name, or read the list."""
    by_suffix = {candidate.removeprefix(PREFIX): candidate for candidate in known}
    nearest = get_close_matches(name.removeprefix(PREFIX), by_suffix, n=1)
    return (
        f"; did you mean {by_suffix[nearest[0]]}?"
        if nearest
        else "; docs/configuration.md lists all settings"
    )


def _check_url(name: str, url: str) -> None:
    """Reject a URL whose hosts and ports cannot be parsed.

    The driver's message could contain part of the password.
    """
    try:
        hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    except ValueError:
        hosts = [":"]
    matches = [HOST_PATTERN.fullmatch(host) for host in hosts]
    if not all(match and int((match[2] or ":0")[1:]) <= PORT_MAX for match in matches):
        raise SettingsError(
            f"{name} must have an unambiguous host and port; "
            "percent-encode special characters in the password"
        )


def _convert(name: str, text: str, type_: Any) -> Any:
    if type_ is Path:
        return Path(text)
    try:
        if type_ == Networks:
            return tuple(str(ip_network(part.strip())) for part in text.split(","))
        if type_ in (Names, Origins):
            return msgspec.convert([part.strip() for part in text.split(",")], type_)
        return msgspec.convert(text, type_, strict=False)
    except msgspec.ValidationError as error:
        problem = describe_error(error, type_, text=True)
    except ValueError:
        problem = "must be IP addresses or networks such as 10.0.0.0/8, separated by commas"
    value = "" if name in SECRET_SETTINGS else f", not {text!r}"
    raise SettingsError(f"{name} {problem}{value}")
