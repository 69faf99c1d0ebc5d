"""Changes that clients request of items, and the result of each change."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

import asyncpg
from msgspec import Struct

from service.database.session import Session
from service.errors import Fault, NotFound, PreconditionFailed
from service.events.journal import Author
from service.items import statements
from service.items.schemas import Item, ItemPatch, StockChange
from service.values import encode_json

Change = TypeVar("Change", ItemPatch, StockChange)


class ItemChange(Struct, Generic[Change], frozen=True):
    """A change of one item; `versions` are those of `If-Match`, or None without that header."""

    item_id: UUID
    change: Change
    author: Author
    versions: list[int] | None = None


def change_columns(changes: Sequence[ItemChange[Any]]) -> dict[str, list[Any]]:
    """Return the arguments that all statements for changes of items share."""
    return {
        "item_ids": [change.item_id for change in changes],
        # As text, because asyncpg would take a list of lists for an array of two dimensions.
        "versions": [
            None if change.versions is None else encode_json(change.versions).decode() for change in changes
        ],
        "actors": [change.author.actor for change in changes],
        "request_ids": [change.author.request_id for change in changes],
    }


async def outcomes(
    session: Session,
    changes: Sequence[ItemChange[Change]],
    changed: Iterable[asyncpg.Record],
    explain: Callable[[Change, asyncpg.Record], Fault],
) -> list[Item | Exception]:
    """Return each changed item, or in its place the reason why it did not change.

    `explain` gets a change and the current row of an item that exists and has the required version.
    """
    items = {row["id"]: Item(*row) for row in changed}
    unchanged = [change.item_id for change in changes if change.item_id not in items]
    rows = await session.fetch(statements.READ_STATE, unchanged) if unchanged else []
    states = {row["id"]: row for row in rows}

    def rejection(change: ItemChange[Change]) -> Fault:
        state = states.get(change.item_id)
        if state is None:
            return NotFound()
        stale = change.versions is not None and state["version"] not in change.versions
        return PreconditionFailed(state["version"]) if stale else explain(change.change, state)

    return [items.get(change.item_id) or rejection(change) for change in changes]
