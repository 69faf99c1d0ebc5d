"""Logging: one JSON object per line, or colored text for a terminal.

Everything goes through structlog, including uvicorn.
"""

import logging
import sys
from asyncio import TimerHandle, get_running_loop
from codecs import getwriter
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import Any, BinaryIO, Literal, TextIO, cast

import msgspec
import structlog
from msgspec import Struct, structs
from rich.console import Console
from rich.traceback import Traceback
from structlog.typing import EventDict, Processor

from service.observability.log_stream import ATOMIC_BYTES_MAX, LogStream, log_stream
from service.observability.redaction import redact_path, redactor

LogFormat = Literal["json", "console"]
FLUSH_SECONDS = 0.05
"""Maximum age of an access-log line that is not written yet."""
REQUEST_CONTEXT: ContextVar[tuple[str, str | None] | None] = ContextVar("REQUEST", default=None)
"""The request id and the trace id of the current request."""


class AccessLogEntry(Struct):
    """One line of the access log."""

    method: str
    path: str
    route: str | None
    status: int
    """499 if the client disconnected before the reply."""
    code: str | None
    """Error code, if the reply is an error."""
    ms: float
    request_id: str
    trace_id: str | None
    key: str | None
    """Id of the API key."""
    client: str | None
    """Client address, from the connection or from a trusted proxy."""
    timestamp: datetime
    event: str = "request"
    level: str = "info"


def access_log(log_format: LogFormat) -> Callable[[AccessLogEntry], None]:
    """Return the writer of access-log lines. JSON bypasses structlog (decision 0005)."""
    if log_format == "console":
        return lambda access: structlog.get_logger().info(**structs.asdict(access))
    return AccessLogWriter(log_stream(sys.stderr.buffer)).write


class AccessLogWriter:
    """Writes access-log lines in batches, because each write is a system call.

    All other log lines go through the same stream and flush it, as does the end of the process.
    """

    def __init__(self, out: LogStream | BinaryIO) -> None:
        self._out = out
        self._buffered_bytes = 0
        self._timer: TimerHandle | None = None

    def write(self, access: AccessLogEntry) -> None:
        access.path = redact_path(access.path)
        line = msgspec.json.encode(access) + b"\n"
        if self._buffered_bytes + len(line) > ATOMIC_BYTES_MAX:
            self._flush()
        self._out.write(line)
        self._buffered_bytes += len(line)
        if access.status >= 500:
            self._flush()
        elif self._timer is None:
            self._timer = get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._buffered_bytes = None, 0
        self._out.flush()


def configure_logs(log_format: LogFormat, secrets: Iterable[str] = ()) -> None:
    """Log to stderr; stdout is for command output. `secrets` are redacted."""
    redact = redactor(secrets)
    shared: list[Processor] = [
        _add_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, *_rendering(log_format, redact)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_logger_factory(log_format),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_text_stream())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(log_format, redact, text=True),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _add_request(_: object, __: str, event: EventDict) -> EventDict:
    """Add the request id and the trace id from a context variable.

    A request that logs nothing pays almost nothing; structlog's own context would be bound by every request.
    """
    if (request := REQUEST_CONTEXT.get()) is not None:
        request_id, trace_id = request
        event.setdefault("request_id", request_id)
        if trace_id is not None:
            event.setdefault("trace_id", trace_id)
    return event


def _rendering(log_format: LogFormat, redact: Callable[[str], str], *, text: bool = False) -> list[Processor]:
    def redact_all(_: object, __: str, event: EventDict) -> EventDict:
        for name, value in event.items():
            if isinstance(value, str):
                event[name] = (
                    "\n".join(map(redact, value.split("\n"))) if name == "exception" else redact(value)
                )
        return event

    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=lambda out, error: _traceback(out, error, redact)
        )
        return [redact_all, renderer]
    encode = _json_text if text else _json_bytes
    return [
        structlog.processors.format_exc_info,
        redact_all,
        structlog.processors.JSONRenderer(serializer=encode),
    ]


def _traceback(
    out: TextIO,
    error: tuple[type[BaseException], BaseException, TracebackType | None],
    redact: Callable[[str], str],
) -> None:
    """Write Rich's traceback without local variables, which contain API keys, and with redacted messages."""
    trace = Traceback.extract(*error, show_locals=False)
    for stack in trace.stacks:
        stack.exc_value = redact(stack.exc_value)
        stack.notes = [redact(note) for note in stack.notes]
    out.write("\n")
    Console(file=out, force_terminal=sys.stderr.isatty()).print(Traceback(trace))


def _logger_factory(log_format: LogFormat) -> Any:
    if log_format == "console":
        return structlog.WriteLoggerFactory(_text_stream())
    return structlog.BytesLoggerFactory(cast("BinaryIO", log_stream(sys.stderr.buffer)))


def _text_stream() -> Any:
    stream: Any = log_stream(sys.stderr.buffer)
    return getwriter("utf-8")(stream, "backslashreplace")


def _json_bytes(event: dict[str, Any], **_: Any) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


def _json_text(event: dict[str, Any], **_: Any) -> str:
    return _json_bytes(event).decode()
