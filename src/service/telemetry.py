"""Logs: one JSON object a line, or colours for a person. Everything goes through structlog, uvicorn too."""

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import msgspec
import structlog
from msgspec import Struct, structs
from structlog.typing import Processor

SHARED: list[Processor] = [
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class Access(Struct):
    """One line of the access log."""

    method: str
    path: str
    route: str | None
    status: int
    """499 when the client left before there was a reply."""
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


def access_log(style: Literal["json", "console"]) -> Callable[[Access], None]:
    """Writes the one line every request has. JSON goes past structlog's chain (decision 0005)."""
    if style == "console":
        return lambda access: structlog.get_logger().info(**structs.asdict(access))
    out = sys.stderr.buffer

    def write(access: Access) -> None:
        out.write(msgspec.json.encode(access) + b"\n")
        out.flush()

    return write


def configure_logs(style: Literal["json", "console"]) -> None:
    """To stderr: stdout belongs to what commands print."""
    structlog.configure(
        processors=[*SHARED, *_rendering(style)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_logger_factory(style),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*SHARED, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(style, text=True),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _rendering(style: str, *, text: bool = False) -> list[Processor]:
    if style == "console":
        # without the local variables: they hold API keys
        traceback = structlog.dev.RichTracebackFormatter(show_locals=False)
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=traceback)]
    encode = _json_text if text else _json_bytes
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=encode)]


def _logger_factory(style: str) -> Any:
    if style == "console":
        return structlog.PrintLoggerFactory(sys.stderr)
    return structlog.BytesLoggerFactory(sys.stderr.buffer)


def _json_bytes(event: dict[str, Any], **_: Any) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


def _json_text(event: dict[str, Any], **_: Any) -> str:
    return _json_bytes(event).decode()
