"""A made-up past of a shop: what was stocked, ordered, cancelled and delivered, in the order of time.

Tuples and arrays of numbers, not objects: ten million orders are imagined at the speed they are stored.
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
"""How much is ordered in each hour of a day."""
LINE_COUNTS = (1,) * 14 + (2,) * 4 + (3, 4)
QUANTITIES = (1,) * 16 + (2,) * 3 + (5,)
CANCELLED_SHARE = 0.05
FULFILLED_WITHIN_HOURS = (2, 72)
CANCELLED_WITHIN_HOURS = (1, 240)
REORDER_LEVEL = 6
"""Pieces left; earlier than `item.low_stock` would be told."""
DISCONTINUED_EVERY = 50
"""One item in so many is out of stock for good."""

KINDS = ("bolt", "nut", "washer", "screw", "rivet", "hinge", "bracket", "clamp", "spring", "bearing")
MATERIALS = ("Steel", "Stainless", "Brass", "Nylon", "Titanium", "Aluminium", "Copper", "Zinc")
FORMS = ("hex", "countersunk", "flanged", "slotted", "wing", "knurled", "square", "self-locking")
CURRENCIES = ("USD",) * 9 + ("EUR",)


Ware: TypeAlias = tuple[int, UUID, str, str, str, str, str, int, datetime]
"""Number, id, SKU, name, price, currency, material, opening stock and time of an item when it was created."""

OrderRow: TypeAlias = tuple[UUID, datetime, str, str | None, str, datetime | None]
"""Id, time, customer, reference, status and end of an order."""
LineRow: TypeAlias = tuple[UUID, datetime, str, str | None, str, datetime | None, int, int, int, int, int]
"""A line: what its order is; its number, the item's number, pieces, the item's version and stock after it."""

MovementRow: TypeAlias = tuple[int, int, str, int, int, UUID | None, datetime]
"""Any other change of stock: the item's number and version, cause, pieces, stock after it, order, time."""


class Batch(Struct):
    orders: int = 0
    sold: list[LineRow] = []
    moved: list[MovementRow] = []


class History:
    """Ends at `until`. `stock`, `version` and `changed_at`: each item as it is after the batches so far."""

    def __init__(self, items: int, orders: int, days: int, until: datetime, seed: int = 1) -> None:
        self.items = items
        self.orders = orders
        self.until = until
        self.begin = datetime.combine(until.date(), datetime.min.time(), UTC) - timedelta(days=days - 1)
        self._days = days
        self._random = Random(seed)  # noqa: S311  # nothing is to be kept from anybody
        self.openings = array("q", (self._opening(no) for no in range(items)))
        self.stock = array("q", self.openings)
        self.version = array("q", [1]) * items
        self.changed_at = [self.begin] * items
        self._stride = next(
            number for number in range(items // 3 + 7, 2 * items + 8) if coprime(number, items)
        )
        self._returns: list[tuple[datetime, UUID, int, int]] = []

    def wares(self) -> Iterator[Ware]:
        """The items, all of them created just before the first order."""
        random = Random(self.items)  # noqa: S311  # as above
        for no, opening in enumerate(self.openings):
            kind, material = KINDS[no % 10], MATERIALS[no // 10 % 8]
            size = f"M{no // 640 % 30 + 2} × {no // 19_200 % 90 * 5 + 10}"
            created_at = self.begin - timedelta(milliseconds=self.items - no)
            cents = min(int(exp(random.gauss(7.2, 1.1))) + 5, 9_999_999)
            price = f"{cents // 100}.{cents % 100:02}"
            name = f"{material} {FORMS[no // 80 % 8]} {kind} {size}"
            identity = (no, id_at(created_at), f"DEMO-{no:07}", name)
            yield (*identity, price, currency(no), material, opening, created_at)

    def batches(self) -> Iterator[Batch]:
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
        """When orders are placed: more each month, fewer on weekends, most in the evening."""
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
        for line_no, no in enumerate(self._basket(), start=1):
            quantity = QUANTITIES[int(random() * len(QUANTITIES))]
            if self.stock[no] - quantity < REORDER_LEVEL:
                self._move(batch, no, "adjust", quantity + int(random() * 450) + 50, None, placed_at)
            self._change(no, -quantity, placed_at)
            batch.sold.append((*order, line_no, no, quantity, self.version[no], self.stock[no]))
            if status == "cancelled" and ended_at is not None:
                heappush(self._returns, (ended_at, order_id, no, quantity))
        batch.orders += 1

    def _basket(self) -> list[int]:
        """Different items of one currency. A few sell often, most hardly ever."""
        random, basket = self._random.random, list[int]()
        for _ in range(LINE_COUNTS[int(random() * len(LINE_COUNTS))]):
            no = int(self.items * random() ** 3) * self._stride % self.items
            if self.openings[no] and (not basket or same_currency(no, basket)):
                basket.append(no)
        return basket or self._basket()

    def _final_status(self, placed_at: datetime) -> tuple[str, datetime | None]:
        random = self._random
        cancelled = random.random() < CANCELLED_SHARE
        hours = random.uniform(*(CANCELLED_WITHIN_HOURS if cancelled else FULFILLED_WITHIN_HOURS))
        ended_at = placed_at + timedelta(hours=hours)
        if ended_at > self.until:
            return "placed", None
        return "cancelled" if cancelled else "fulfilled", ended_at

    def _restock(self, batch: Batch, at: datetime, order_id: UUID, no: int, quantity: int) -> None:
        self._move(batch, no, "cancel", quantity, order_id, at)

    def _move(
        self, batch: Batch, no: int, cause: str, delta: int, order_id: UUID | None, at: datetime
    ) -> None:
        self._change(no, delta, at)
        batch.moved.append((no, self.version[no], cause, delta, self.stock[no], order_id, at))

    def _change(self, no: int, delta: int, at: datetime) -> None:
        self.stock[no] += delta
        self.version[no] += 1
        self.changed_at[no] = at

    def _opening(self, no: int) -> int:
        return 0 if no % DISCONTINUED_EVERY == DISCONTINUED_EVERY - 1 else self._random.randint(20, 500)


def currency(no: int) -> str:
    return CURRENCIES[no // 3 % 10]


def coprime(number: int, other: int) -> bool:
    while other:
        number, other = other, number % other
    return number == 1


def same_currency(no: int, basket: list[int]) -> bool:
    return no not in basket and currency(no) == currency(basket[0])


def id_at(moment: datetime) -> UUID:
    """A UUIDv7 of the past (RFC 9562 §5.7)."""
    bits = getrandbits(74)
    return UUID(int=int(moment.timestamp() * 1000) << 80 | 7 << 76 | bits >> 62 << 64 | 2 << 62 | bits & LOW)
