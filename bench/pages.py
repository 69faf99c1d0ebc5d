"""The cost of the first and the last page of each list, and of a report, one request at a time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from statistics import median, quantiles
from time import perf_counter
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from litestar import Request
from msgspec import Struct

from bench.errors import BenchError
from bench.peer import HOST, REPLY_SECONDS, Running
from service.http.pagination import Pager

TRIES = 60
REPORTS = 400
LIMIT = 50


SHARED = "shared"
WEBHOOK = "01900000-0000-7000-8000-000000000000"
LONG_LISTS = (
    "update items set archived = true where right(sku, 7)::int / 3 % 10 = 9 and not archived",
    f"""
    update orders set reference = '{SHARED}'
    where not exists (select from orders where reference = '{SHARED}')
      and id in (select id from orders where right(id::text, 1) = '7')""",
    f"""
    with webhook as (
      insert into webhooks (id, url, events, enabled, secret, version)
      values ('{WEBHOOK}', 'http://127.0.0.1:9/', '{{*}}', false, 'whsec_', 1)
      on conflict do nothing returning id
    )
    insert into deliveries (webhook_id, event_id, status, due_at, finished_at)
    select webhook.id, events.id, 'delivered', null, now()
    from webhook, (select id from events limit 200000) events""",
    "vacuum analyze items, orders, deliveries",
)
"""Statements that fill the lists that `depot demo` leaves empty; they may run again. The archived items are
not in dollars, so the measured orders do not name them."""


class Listing(Struct, frozen=True):
    """A list: its path with filters, and its rows as SQL, whose `id` is their position."""

    path: str
    rows: str
    descending: bool = True

    def position(self) -> str:
        """A query for the row before the last full page."""
        back = "" if self.descending else " desc"
        return f"select id from ({self.rows}) r order by id{back} limit 1 offset {LIMIT}"


YEAR, MONTH = (datetime.now(UTC).date() - timedelta(days=days) for days in (365, 30))
LISTINGS = [
    Listing("/items", "select id from items where not archived"),
    Listing("/items?in_stock=true", "select id from items where quantity > 0 and not archived"),
    Listing("/items?in_stock=false", "select id from items where quantity = 0 and not archived"),
    Listing("/items?low_stock=true", "select id from items where quantity <= low_stock_at and not archived"),
    Listing("/items?archived=true", "select id from items where archived"),
    Listing("/items?q=bolt", "select id from items where name ilike '%bolt%' and not archived"),
    Listing(
        "/items?q=hex+bolt+M17", "select id from items where name ilike '%hex bolt M17%' and not archived"
    ),
    Listing("/orders", "select id from orders"),
    Listing("/orders?status=fulfilled", "select id from orders where status = 'fulfilled'"),
    Listing("/orders?status=cancelled", "select id from orders where status = 'cancelled'"),
    Listing("/orders?customer_id=c-1", "select id from orders where customer_id = 'c-1'"),
    Listing(f"/orders?reference={SHARED}", f"select id from orders where reference = '{SHARED}'"),
    Listing(
        f"/orders?from={YEAR}&to={MONTH}",
        f"select id from orders where created_at >= '{YEAR} UTC' and created_at < '{MONTH} UTC'",
    ),
    Listing("/audit", "select id from events"),
    Listing("/audit?entity=order", "select id from events where split_part(type, '.', 1) = 'order'"),
    Listing("/audit?actor=cli", "select id from events where actor = 'cli'"),
    Listing("/events", "select id from events", descending=False),
    Listing(
        "/events?type=order.cancelled",
        "select id from events where type = 'order.cancelled'",
        descending=False,
    ),
    Listing(f"/webhooks/{WEBHOOK}/deliveries", f"select id from deliveries where webhook_id = '{WEBHOOK}'"),
]
BUSIEST = "select item_id from movements where cause = 'adjust' group by 1 order by count(*) desc limit 1"


class Cost(Struct, frozen=True):
    """The milliseconds per page, the median of `TRIES` alternating requests."""

    path: str
    first_ms: float
    last_ms: float

    @property
    def ratio(self) -> float:
        return self.last_ms / self.first_ms


class Reports(Struct, frozen=True):
    p50_ms: float
    p99_ms: float


def page_costs(peer: Running) -> Iterator[Cost]:
    for statement in LONG_LISTS:
        peer.database.value(statement)
    busiest = peer.database.value(BUSIEST)
    rows = f"select version as id from movements where item_id = '{busiest}'"
    for listing in [*LISTINGS, Listing(f"/items/{busiest}/movements", rows)]:
        position = peer.database.value(listing.position())
        if position is not None:
            yield _cost(peer, listing, position if isinstance(position, int) else UUID(str(position)))


def report_times(peer: Running, count: int = REPORTS) -> Reports:
    """Measure the report of the last 30 days, which is the default."""
    connection = HTTPConnection(HOST, peer.port, timeout=REPLY_SECONDS)
    times = sorted(_time(connection, peer, "/reports/financial") for _ in range(count))
    return Reports(round(median(times), 2), round(quantiles(times, n=100)[98], 2))


def cursor(path: str, position: UUID | int) -> str:
    """Return the `next_cursor` of a page that ends at this position."""
    bare, _, query = path.partition("?")
    scope = {"type": "http", "path": bare, "query_string": query.encode(), "headers": []}
    pager = Pager[UUID | int](Request(scope), 1, None, type(position))  # type: ignore[arg-type]
    found = pager.page([position, position], lambda row: row).next_cursor
    if found is None:
        raise BenchError(f"{path} has no second page")
    return found


def _cost(peer: Running, listing: Listing, position: UUID | int) -> Cost:
    connection = HTTPConnection(HOST, peer.port, timeout=REPLY_SECONDS)
    bare, _, query = listing.path.partition("?")
    last = f"{bare}?{urlencode([*parse_qsl(query), ('cursor', cursor(listing.path, position))])}"
    times: dict[str, list[float]] = {listing.path: [], last: []}
    for _ in range(TRIES):
        for path, taken in times.items():
            taken.append(_time(connection, peer, path))
    first_ms, last_ms = (round(median(taken), 2) for taken in times.values())
    return Cost(listing.path, first_ms, last_ms)


def _time(connection: HTTPConnection, peer: Running, path: str) -> float:
    """Return the milliseconds of a request. Raises `BenchError` unless the reply is a 2xx."""
    started = perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {peer.key}"})
    reply = connection.getresponse()
    body = reply.read()
    if reply.status != 200:
        raise BenchError(f"{path}: {reply.status} {body[:200]!r}")
    return (perf_counter() - started) * 1000
