"""Plain record keeping: SQLAlchemy, beneath advanced-alchemy's repositories, on connections of ours."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from advanced_alchemy.base import AdvancedDeclarativeBase, CommonTableAttributes
from advanced_alchemy.exceptions import RepositoryError
from sqlalchemy import AsyncAdaptedQueuePool, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.database.servers import Connection
from service.settings import Settings
from service.values import decode_json, encode_json


class Base(CommonTableAttributes, AdvancedDeclarativeBase):
    """The base of all models; constraint names follow advanced-alchemy's convention."""

    __abstract__ = True


def create_engine(connect: Callable[..., Awaitable[Connection]], settings: Settings) -> AsyncEngine:
    made = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        connect_args={"prepared_statement_cache_size": settings.statement_cache_size},
        pool_size=settings.records_pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_wait_seconds,
        hide_parameters=True,  # its errors would bring secrets into the log
        json_serializer=lambda value: encode_json(value).decode(),
        json_deserializer=decode_json,
    )
    event.listen(made.sync_engine, "checkout", _replace_closed_connection)
    event.listen(made.sync_engine, "handle_error", _invalidate_standby_connection)
    return made


def engine_pool(engine: AsyncEngine) -> AsyncAdaptedQueuePool:
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)  # noqa: S101  # what asyncio engines have, for mypy
    return engine.pool


def root_cause(error: BaseException) -> BaseException:
    """The driver's error, out of what advanced-alchemy and SQLAlchemy wrap it in."""
    if isinstance(error, RepositoryError):
        error = error.__cause__ or error
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    return error


def _replace_closed_connection(connection: Any, *_: object) -> None:
    """Gets another connection. SQLAlchemy could ask each whether it lives, in three round trips."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _invalidate_standby_connection(context: ExceptionContext) -> None:
    """A connection to a server that is a standby now is not kept."""
    if isinstance(context.original_exception.__cause__, asyncpg.ReadOnlySQLTransactionError):
        context.is_disconnect = True
