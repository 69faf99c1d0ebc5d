"""Every setting and every limit, by name, parsed once from the environment."""

import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from service.constraints import describe_error

PREFIX = "DEPOT_"
DatabaseUrl = Annotated[
    str,
    Meta(
        pattern=r"^postgres(ql)?(\+asyncpg)?://", extra={"expected": "a URL that starts with postgresql://"}
    ),
]
DATABASE_URLS = {"DATABASE_URL", "DEPOT_DIRECT_DATABASE_URL"}
SECRET_SETTINGS = {*DATABASE_URLS, "DEPOT_SECRET"}
UNPREFIXED = {"host": "HOST", "port": "PORT", "database_url": "DATABASE_URL"}
PASSWORD_PATTERNS = (r"://[^:@]*:(.*?)@", r"://[^:@]*:(.*)@", r"[?&]password=([^&]*)")
"""In a URL, which may be a bad one: with a character in its password that should have been encoded."""

HOST_PATTERN = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]+)?")

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=2**40)]
Connections = Annotated[int, Meta(ge=1, le=1000)]
Names = tuple[
    Annotated[str, Meta(pattern=r"^[^\s,]+$", extra={"expected": "names separated by commas"})], ...
]
Networks = tuple[Annotated[str, Meta(description="An address or a network")], ...]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]


class StartupError(Exception):
    """Why the service could not start; its text is one line for the person at the terminal."""


class SettingsError(StartupError):
    """A bad or unknown setting."""


class Settings(Struct, frozen=True, kw_only=True):
    """Field `pool_size` is read from `DEPOT_POOL_SIZE`; `host`, `port`, `database_url` have no prefix."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    allowed_hosts: Names = ()
    """The host names this service goes by; none: any. Like all lists, separated by commas."""
    cors_origins: Names = ()
    """Web pages of these origins may call it, such as `https://shop.example`; none: no other origin's."""
    trusted_proxies: Networks = ()
    """Addresses or networks whose `X-Forwarded-For` is believed, such as `10.0.0.0/8`."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    database_url: DatabaseUrl | None = None
    """May name several servers; `target_session_attrs=read-write` finds the one that takes writes."""
    direct_database_url: DatabaseUrl | None = None
    """Past the pooler, if `DATABASE_URL` is one: for LISTEN, migrations, and work longer than a request."""

    home: Path = Path(".depot")
    log: Literal["json", "console"] = "json"
    metrics: Literal["key", "open"] = "key"
    """Whether `GET /metrics` asks for a key with the scope `metrics:read`."""
    worker_metrics_port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    """Where `depot worker` shows its metrics, to all who reach `host`; unset: nowhere."""
    traces_url: (
        Annotated[str, Meta(pattern=r"^https?://[^/]", extra={"expected": "an http or https URL"})] | None
    ) = None
    """An OTLP/HTTP endpoint, such as `http://collector:4318/v1/traces`; unset: no traces."""
    traces_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """How many of the traces that begin here are kept; a caller's own decision is followed."""
    secret: Annotated[str, Meta(min_length=32)] | None = None
    """Keys the hashes of API keys; unset: a random one kept in the database."""

    statement_cache_size: Annotated[int, Meta(ge=0, le=10_000)] = 100
    """Prepared statements kept per connection; 0 behind a PgBouncer that cannot keep them (before 1.21)."""
    pool_size: Connections = 16
    records_pool_size: Connections = 4
    """Connections of SQLAlchemy's own pool, which serves the plain records (resources, keys)."""
    pool_wait_seconds: Seconds = 1.0
    connect_timeout_seconds: Seconds = 3.0
    statement_timeout_seconds: Seconds = 5.0
    idle_transaction_timeout_seconds: Seconds = 10.0
    health_timeout_seconds: Annotated[float, Meta(gt=0, le=0.9)] = 0.8

    drain_seconds: Seconds = 5.0
    shutdown_timeout_seconds: Seconds = 25.0
    """How long requests in flight may take to end once draining is over."""
    keepalive_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 75
    """Longer than the load balancer's idle time (60 s for most), or it meets closed connections."""

    in_flight_max: Count = 1024
    """Requests at once in one process; fewer under a load that lasts (`overload_delay_seconds`)."""
    in_flight_min: Count = 256
    """So many are let in however long they take."""
    overload_delay_seconds: Annotated[float, Meta(gt=0, le=60)] = 0.25
    """Once the typical request takes longer, no more are let in than can be served in this time."""
    request_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 15.0
    """Then it is answered 503, whatever it waits for; uploads and streams have deadlines of their own."""
    read_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 20.0
    """For all of a request to come, from its first byte on."""
    write_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """For a client to take what is ready to be sent, 64 KiB at most."""
    connections_max: Count = 8192
    """Connections open at once in one process."""
    head_bytes_max: Annotated[int, Meta(ge=1024, le=2**30)] = 32_768
    """Of a request's target and headers; twice what load balancers let through."""
    rate_limit: (
        Annotated[
            str,
            Meta(
                pattern=r"^[1-9][0-9]{0,8}/(second|minute|hour|day)$",
                extra={"expected": "a rate such as 600/minute"},
            ),
        ]
        | None
    ) = None
    """What one API key may ask of one process, such as `600/minute`; unset: no limit."""
    body_bytes_max: Bytes = 262_144
    placement_queue_max: Count = 2048
    placement_batch_max: Annotated[int, Meta(ge=1, le=1000)] = 256
    placement_flushes_max: Annotated[int, Meta(ge=1, le=8)] = 2
    placement_lock_seconds: Annotated[float, Meta(ge=0.01, le=60)] = 0.25
    """So long a commit of orders waits for an item; whoever ordered one that is held longer waits apart."""
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
    """Unset: `file://$DEPOT_HOME/blobs`."""
    blob_puts_max: Annotated[int, Meta(ge=1, le=100)] = 4
    """Documents put into the store at once by one process; on S3 each is in memory meanwhile."""
    orphan_kept_seconds: Annotated[float, Meta(ge=600, le=31_536_000)] = 86_400.0
    """A blob that nothing names is deleted once it is older; that of an upload under way has no name yet."""

    document_bytes_max: Bytes = 5_242_880
    upload_bytes_max: Bytes = 5_000_000
    """The same for `POST /upload`."""
    uploads_max: Count = 200
    """Uploads under way at once in one process; each is on its disk, in the folder for temporary files."""
    upload_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 120.0
    document_pixels_max: Annotated[int, Meta(ge=1, le=2**31)] = 50_000_000
    document_memory_bytes_max: Bytes = 805_306_368
    document_cpu_seconds_max: Annotated[int, Meta(ge=1, le=3600)] = 20
    """What looking into one document may take, or it is rejected."""

    webhook_allow_private: bool = False
    webhook_timeout_seconds: Annotated[float, Meta(gt=0, le=60)] = 15.0
    webhook_lane_max: Annotated[int, Meta(ge=1, le=100)] = 8
    """Deliveries under way to one endpoint: a slow one keeps no other waiting."""
    webhook_poll_seconds: Annotated[float, Meta(gt=0, le=60)] = 1.0
    """How often each process looks for deliveries that others left or that are to be tried again."""
    webhook_secret_overlap_seconds: Annotated[float, Meta(ge=0, le=604_800)] = 86_400.0
    """How long the old secret signs as well after a rotation."""
    webhooks_max: Count = 100
    delivery_kept_days: Count = 30

    worker_concurrency: Annotated[int, Meta(ge=1, le=1000)] = 10
    job_attempts_max: Annotated[int, Meta(ge=1, le=100)] = 5
    job_heartbeat_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """A job whose worker has not been heard of for this long is taken over by another."""
    job_kept_days: Count = 30
    job_streams_max: Count = 200
    """Event streams of jobs (`GET /jobs/{id}/events`) open at once in one process."""
    job_test_kinds: bool = False
    """Whether there is `system.sleep`, for tests and `depot dev`."""

    def secrets(self) -> set[str]:
        """What must never be shown, in the forms in which it may turn up."""
        urls = [url for url in (self.database_url, self.direct_database_url) if url]
        given = {self.secret or ""}.union(
            *(re.findall(form, url) for form in PASSWORD_PATTERNS for url in urls)
        )
        return (given | {unquote(text) for text in given}) - {""}


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the environment. Raises `SettingsError` for the first bad or unknown value."""
    known = {UNPREFIXED.get(f.name, PREFIX + f.name.upper()): f for f in fields(Settings)}
    given = {name: value for name, value in environ.items() if name in known and value != ""}
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            raise SettingsError(f"{name} is not a setting of Depot")
    for name in given.keys() & DATABASE_URLS:
        _check_url(name, given[name])
    return Settings(
        **{known[name].name: _convert(name, text, known[name].type) for name, text in given.items()}
    )


def _check_url(name: str, url: str) -> None:
    """The driver would say it with a part of the password: where that ends is what cannot be told."""
    try:
        hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    except ValueError:
        hosts = [":"]
    if not all(HOST_PATTERN.fullmatch(host) for host in hosts):
        raise SettingsError(
            f"{name}: its value is not valid: host and port cannot be told (a password is %-encoded)"
        )


def _convert(name: str, text: str, type_: Any) -> Any:
    if type_ is Path:
        return Path(text)
    try:
        if type_ == Networks:
            return tuple(str(ip_network(part.strip())) for part in text.split(","))
        if type_ == Names:
            return msgspec.convert([part.strip() for part in text.split(",")], type_)
        return msgspec.convert(text, type_, strict=False)
    except msgspec.ValidationError as error:
        problem = describe_error(error, type_, text=True)
    except ValueError:
        problem = "must be IP addresses or networks such as 10.0.0.0/8, separated by commas"
    shown = "its value" if name in SECRET_SETTINGS else repr(text)
    raise SettingsError(f"{name}: {shown} is not valid: it {problem}")
