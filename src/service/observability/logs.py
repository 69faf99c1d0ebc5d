"""Logs: one JSON object a line, or colours for a person. Everything goes through structlog, uvicorn too."""

import logging
import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, TextIO

import msgspec
import structlog
from msgspec import Struct, structs
from rich.console import Console
from rich.traceback import Traceback
from structlog.typing import EventDict, Processor

from service.observability.redaction import redact_path, redactor

LogFormat = Literal["json", "console"]

REQUEST_CONTEXT: ContextVar[tuple[str, str | None] | None] = ContextVar("REQUEST", default=None)
"""The request id and the trace id of the request this code runs for."""


class AccessLogEntry(Struct):
    """One line of the access log."""

    method: str
    path: str
    route: str | None
    status: int
    """499 when the client left before there was a reply."""
    code: str | None
    """The error contract's, in a refusal."""
    ms: float
    request_id: str
    trace_id: str | None
    key: str | None
    """The id of the API key."""
    client: str | None
    """Its address: of the connection, or as a trusted proxy tells it."""
    timestamp: datetime
    event: str = "request"
    level: str = "info"


def access_log(style: LogFormat) -> Callable[[AccessLogEntry], None]:
    """Writes the one line every request has. JSON goes past structlog's chain (decision 0005)."""
    if style == "console":
        return lambda access: structlog.get_logger().info(**structs.asdict(access))
    out = sys.stderr.buffer

    def write(access: AccessLogEntry) -> None:
        access.path = redact_path(access.path)
        out.write(msgspec.json.encode(access) + b"\n")
        out.flush()

    return write


def configure_logs(style: LogFormat, secrets: Iterable[str] = ()) -> None:
    """To stderr: stdout belongs to what commands print. `secrets` never get there."""
    clean = redactor(secrets)
    shared: list[Processor] = [
        _add_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, *_rendering(style, clean)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_logger_factory(style),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(style, clean, text=True),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _add_request(_: object, __: str, event: EventDict) -> EventDict:
    """Costs requests that log nothing next to nothing: binding to structlog's own context is done by each."""
    if (request := REQUEST_CONTEXT.get()) is not None:
        request_id, trace_id = request
        event.setdefault("request_id", request_id)
        if trace_id is not None:
            event.setdefault("trace_id", trace_id)
    return event


def _rendering(style: LogFormat, clean: Callable[[str], str], *, text: bool = False) -> list[Processor]:
    def clean_all(_: object, __: str, event: EventDict) -> EventDict:
        for name, value in event.items():
            if isinstance(value, str):
                event[name] = (
                    "\n".join(map(clean, value.split("\n"))) if name == "exception" else clean(value)
                )
        return event

    if style == "console":
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=lambda out, error: _traceback(out, error, clean)
        )
        return [clean_all, renderer]
    encode = _json_text if text else _json_bytes
    return [
        structlog.processors.format_exc_info,
        clean_all,
        structlog.processors.JSONRenderer(serializer=encode),
    ]


def _traceback(
    out: TextIO,
    error: tuple[type[BaseException], BaseException, TracebackType | None],
    clean: Callable[[str], str],
) -> None:
    """Rich's, without the local variables, which hold API keys, and with clean messages."""
    trace = Traceback.extract(*error, show_locals=False)
    for stack in trace.stacks:
        stack.exc_value = clean(stack.exc_value)
        stack.notes = [clean(note) for note in stack.notes]
    out.write("\n")
    Console(file=out, force_terminal=sys.stderr.isatty()).print(Traceback(trace))


def _logger_factory(style: LogFormat) -> Any:
    if style == "console":
        return structlog.PrintLoggerFactory(sys.stderr)
    return structlog.BytesLoggerFactory(sys.stderr.buffer)


def _json_bytes(event: dict[str, Any], **_: Any) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


def _json_text(event: dict[str, Any], **_: Any) -> str:
    return _json_bytes(event).decode()
