"""Generate a shop's history in chronological order: restocks, orders, cancellations and fulfillments.

Uses tuples and numeric arrays instead of objects, so that ten million orders are generated as fast as they
are stored.
"""

from array import array
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from math import exp, pi, sin
from random import Random, getrandbits
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

BATCH_ORDERS = 50_000
LOW = (1 << 62) - 1
DAY_SECONDS = 86_400

HOURLY_WEIGHTS = (2, 1, 1, 1, 1, 2, 4, 7, 9, 10, 11, 11, 10, 10, 9, 9, 9, 10, 11, 12, 11, 8, 5, 3)
"""Relative order volume per hour of the day."""
LINE_COUNTS = (1,) * 14 + (2,) * 4 + (3, 4)
QUANTITIES = (1,) * 16 + (2,) * 3 + (5,)
CANCELLED_SHARE = 0.05
FULFILLED_WITHIN_HOURS = (2, 72)
CANCELLED_WITHIN_HOURS = (1, 240)
REORDER_LEVEL = 6
"""The stock that triggers a restock; above the threshold of `item.low_stock`, so that none is due."""
DISCONTINUED_EVERY = 50
"""One item in this many is permanently out of stock."""

KINDS = ("bolt", "nut", "washer", "screw", "rivet", "hinge", "bracket", "clamp", "spring", "bearing")
MATERIALS = ("Steel", "Stainless", "Brass", "Nylon", "Titanium", "Aluminium", "Copper", "Zinc")
FORMS = ("hex", "countersunk", "flanged", "slotted", "wing", "knurled", "square", "self-locking")
CURRENCIES = ("USD",) * 9 + ("EUR",)


ItemRow: TypeAlias = tuple[int, UUID, str, str, str, str, str, int, datetime]
"""The number, id, SKU, name, price, currency, material, opening stock and creation time of an item."""

LineRow: TypeAlias = tuple[UUID, datetime, str, str | None, str, datetime | None, int, int, int, int, int]
"""An order line: the order's id, time, customer, reference, status and end, then the line's number, the
item's number, the quantity, and the item's version and stock."""

MovementRow: TypeAlias = tuple[int, int, str, int, int, UUID | None, datetime]
"""Another stock movement: item number and version, cause, delta, resulting stock, order, time."""


class Batch(Struct):
    """The rows of up to `BATCH_ORDERS` orders, and the other movements of that time."""

    orders: int = 0
    lines: list[LineRow] = []
    movements: list[MovementRow] = []


class History:
    """A generated history up to `until`.

    `stock`, `version` and `changed_at` are the state of each item after the batches so far.
    """

    def __init__(self, items: int, orders: int, days: int, until: datetime, seed: int = 1) -> None:
        self.items = items
        self.orders = orders
        self.until = until
        self.begin = datetime.combine(until.date(), datetime.min.time(), UTC) - timedelta(days=days - 1)
        self._days = days
        self._random = Random(seed)  # noqa: S311  # not security-relevant
        self.opening_stock = array("q", (self._initial_quantity(item_no) for item_no in range(items)))
        self.stock = array("q", self.opening_stock)
        self.version = array("q", [1]) * items
        self.changed_at = [self.begin] * items
        self._stride = next(
            number for number in range(items // 3 + 7, 2 * items + 8) if coprime(number, items)
        )
        self._returns: list[tuple[datetime, UUID, int, int]] = []

    def item_rows(self) -> Iterator[ItemRow]:
        """Yield the items, all of them created just before the first order."""
        random = Random(self.items)  # noqa: S311  # not security-relevant
        for item_no, opening in enumerate(self.opening_stock):
            kind, material = KINDS[item_no % 10], MATERIALS[item_no // 10 % 8]
            size = f"M{item_no // 640 % 30 + 2} × {item_no // 19_200 % 90 * 5 + 10}"
            created_at = self.begin - timedelta(milliseconds=self.items - item_no)
            cents = min(int(exp(random.gauss(7.2, 1.1))) + 5, 9_999_999)
            price = f"{cents // 100}.{cents % 100:02}"
            name = f"{material} {FORMS[item_no // 80 % 8]} {kind} {size}"
            identity = (item_no, id_at(created_at), f"DEMO-{item_no:07}", name)
            yield (*identity, price, currency(item_no), material, opening, created_at)

    def batches(self) -> Iterator[Batch]:
        """Yield the orders and movements in chronological order."""
        batch = Batch()
        for placed_at in self._order_times():
            while self._returns and self._returns[0][0] <= placed_at:
                self._restock(batch, *heappop(self._returns))
            self._place(batch, placed_at)
            if batch.orders == BATCH_ORDERS:
                yield batch
                batch = Batch()
        while self._returns:
            self._restock(batch, *heappop(self._returns))
        yield batch

    def _order_times(self) -> Iterator[datetime]:
        """Yield the times of the orders: more each month, fewer on weekends, most in the evening."""
        random = self._random
        weights = [self._weight(day) for day in range(self._days)]
        share, total, placed = 0.0, sum(weights), 0
        for day, weight in enumerate(weights):
            share += weight
            count = round(self.orders * share / total) - placed
            placed += count
            midnight = self.begin + timedelta(days=day)
            length = min(DAY_SECONDS, (self.until - midnight).total_seconds()) / 24
            hours = random.choices(range(24), HOURLY_WEIGHTS, k=count)
            for offset in sorted((hour + random.random()) * length for hour in hours):
                yield midnight + timedelta(seconds=offset)

    def _weight(self, day: int) -> float:
        date = self.begin + timedelta(days=day)
        weekday = 0.7 if date.weekday() >= 5 else 1.0
        passed = min(1.0, (self.until - date).total_seconds() / DAY_SECONDS)
        season = 1 + 0.25 * sin(2 * pi * date.timetuple().tm_yday / 365)
        return weekday * passed * season * (1 + day / self._days) * self._random.uniform(0.9, 1.1)

    def _place(self, batch: Batch, placed_at: datetime) -> None:
        random = self._random.random
        order_id = id_at(placed_at)
        status, ended_at = self._final_status(placed_at)
        customer_id = f"c-{int(random() ** 2 * (self.orders // 20 + 10)) + 1}"
        reference = f"PO-{placed_at.year}-{int(random() * 10**6):06}" if random() < 0.3 else None
        order = (order_id, placed_at, customer_id, reference, status, ended_at)
        for line_no, item_no in enumerate(self._basket(), start=1):
            quantity = QUANTITIES[int(random() * len(QUANTITIES))]
            if self.stock[item_no] - quantity < REORDER_LEVEL:
                self._move(batch, item_no, "adjust", quantity + int(random() * 450) + 50, None, placed_at)
            self._change(item_no, -quantity, placed_at)
            state = (self.version[item_no], self.stock[item_no])
            batch.lines.append((*order, line_no, item_no, quantity, *state))
            if status == "cancelled" and ended_at is not None:
                heappush(self._returns, (ended_at, order_id, item_no, quantity))
        batch.orders += 1

    def _basket(self) -> list[int]:
        """Pick distinct items of one currency; a few items sell often, most rarely."""
        random, basket = self._random.random, list[int]()
        for _ in range(LINE_COUNTS[int(random() * len(LINE_COUNTS))]):
            item_no = int(self.items * random() ** 3) * self._stride % self.items
            if self.opening_stock[item_no] and (not basket or same_currency(item_no, basket)):
                basket.append(item_no)
        return basket or self._basket()

    def _final_status(self, placed_at: datetime) -> tuple[str, datetime | None]:
        random = self._random
        cancelled = random.random() < CANCELLED_SHARE
        hours = random.uniform(*(CANCELLED_WITHIN_HOURS if cancelled else FULFILLED_WITHIN_HOURS))
        ended_at = placed_at + timedelta(hours=hours)
        if ended_at > self.until:
            return "placed", None
        return "cancelled" if cancelled else "fulfilled", ended_at

    def _restock(self, batch: Batch, at: datetime, order_id: UUID, item_no: int, quantity: int) -> None:
        self._move(batch, item_no, "cancel", quantity, order_id, at)

    def _move(
        self, batch: Batch, item_no: int, cause: str, delta: int, order_id: UUID | None, at: datetime
    ) -> None:
        self._change(item_no, delta, at)
        state = (self.version[item_no], cause, delta, self.stock[item_no])
        batch.movements.append((item_no, *state, order_id, at))

    def _change(self, item_no: int, delta: int, at: datetime) -> None:
        self.stock[item_no] += delta
        self.version[item_no] += 1
        self.changed_at[item_no] = at

    def _initial_quantity(self, item_no: int) -> int:
        return 0 if item_no % DISCONTINUED_EVERY == DISCONTINUED_EVERY - 1 else self._random.randint(20, 500)


def currency(item_no: int) -> str:
    """Return the currency of an item."""
    return CURRENCIES[item_no // 3 % 10]


def coprime(number: int, other: int) -> bool:
    """Return whether the numbers have no common divisor but 1."""
    while other:
        number, other = other, number % other
    return number == 1


def same_currency(item_no: int, basket: list[int]) -> bool:
    """Return whether the item is new to the basket and has the basket's currency."""
    return item_no not in basket and currency(item_no) == currency(basket[0])


def id_at(time: datetime) -> UUID:
    """Return a UUIDv7 of a past time (RFC 9562 §5.7)."""
    bits = getrandbits(74)
    return UUID(int=int(time.timestamp() * 1000) << 80 | 7 << 76 | bits >> 62 << 64 | 2 << 62 | bits & LOW)
