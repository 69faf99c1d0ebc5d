"""Helpers for tests of the dispatcher: run it, and wait for the state of the deliveries."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace
from receiver import deliveries

from service.database.database import Database
from service.settings import Settings
from service.webhooks.dispatcher import WebhookDispatcher
from tests.support.app_helpers import eventually

NEVER_SECONDS = 60.0
"""A poll interval longer than any test."""


@asynccontextmanager
async def delivering(
    database: Database, settings: Settings, *schedule: float, **changes: Any
) -> AsyncIterator[WebhookDispatcher]:
    dispatcher = WebhookDispatcher(database, replace(settings, **changes), schedule or (NEVER_SECONDS,))
    async with dispatcher.open():
        yield dispatcher


async def until(database: Database, holds: Callable[[list[Any]], bool]) -> list[Any]:
    """Return the deliveries once `holds` is true of them."""

    async def held() -> bool:
        return holds(await deliveries(database))

    await eventually(held)
    return await deliveries(database)


def all_are(status: str) -> Callable[[list[Any]], bool]:
    return lambda rows: bool(rows) and {row["status"] for row in rows} == {status}


def tried(times: int) -> Callable[[list[Any]], bool]:
    return lambda rows: all(len(row["attempts"]) >= times for row in rows)
