"""The SQLAlchemy engine for advanced-alchemy's repositories, on connections opened by `Database`."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from advanced_alchemy.base import AdvancedDeclarativeBase, CommonTableAttributes
from advanced_alchemy.exceptions import RepositoryError
from sqlalchemy import AsyncAdaptedQueuePool, event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.database.array_types import declare_array_types
from service.database.servers import Connection
from service.settings import Settings
from service.values import decode_json, encode_json, stored_form


class Json(JSONB):
    """JSONB that detects every change of the stored value; in Python 0 equals False, and 1.5 equals 1.50."""

    def compare_values(self, x: Any, y: Any) -> bool:
        return stored_form(x) == stored_form(y)


class Base(CommonTableAttributes, AdvancedDeclarativeBase):
    """Base class of all models; constraint names follow advanced-alchemy's convention."""

    __abstract__ = True


def create_engine(
    connect: Callable[..., Awaitable[Connection]], on_response: Callable[[], None], settings: Settings
) -> AsyncEngine:
    """Create the engine; it calls `on_response` for every answered statement."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        connect_args={"prepared_statement_cache_size": settings.statement_cache_size},
        pool_size=settings.records_pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_wait_seconds,
        hide_parameters=True,  # its errors would otherwise log parameters, such as secrets
        json_serializer=lambda value: encode_json(value).decode(),
        json_deserializer=decode_json,
    )
    event.listen(engine.sync_engine, "connect", _declare_array_types)
    event.listen(engine.sync_engine, "checkout", _replace_closed_connection)
    event.listen(engine.sync_engine, "handle_error", _invalidate_standby_connection)
    event.listen(engine.sync_engine, "after_cursor_execute", lambda *_: on_response())
    return engine


def engine_pool(engine: AsyncEngine) -> AsyncAdaptedQueuePool:
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)  # noqa: S101  # every asyncio engine has it; for mypy
    return engine.pool


def root_cause(error: BaseException) -> BaseException:
    """Return the driver's error inside advanced-alchemy's and SQLAlchemy's exceptions."""
    if isinstance(error, RepositoryError):
        error = error.__cause__ or error
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    return error


def _declare_array_types(connection: Any, *_: object) -> None:
    declare_array_types(connection.driver_connection)


def _replace_closed_connection(connection: Any, *_: object) -> None:
    """Make the pool replace a closed connection. SQLAlchemy's own pre-ping takes three round trips."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _invalidate_standby_connection(context: ExceptionContext) -> None:
    """Discard a connection whose server has become a standby."""
    if isinstance(context.original_exception.__cause__, asyncpg.ReadOnlySQLTransactionError):
        context.is_disconnect = True
