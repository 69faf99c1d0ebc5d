"""The request headers that every reply depends on, even if the request never reaches the application."""

import re
from collections.abc import Iterable
from random import Random

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
random_bits = Random().getrandbits  # noqa: S311  # a request id is no secret, and this makes no system call
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


class RequestHead:
    """The facts that the headers state about a request. The request id is the client's, or a new one."""

    __slots__ = ("accept", "forwarded_for", "host", "request_id", "trace_id")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.request_id = ""
        self.trace_id: str | None = None
        self.accept = ""
        self.host = self.forwarded_for = b""
        for name, value in headers:
            if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                self.request_id = value.decode()
            elif name == b"traceparent" and (match := TRACEPARENT.fullmatch(value)):
                self.trace_id = match[1].decode()
            elif name == b"accept":
                self.accept += ("," if self.accept else "") + value.decode("latin-1")
            elif name == b"host":
                self.host = value
            elif name == b"x-forwarded-for":
                self.forwarded_for = self.forwarded_for + b"," + value if self.forwarded_for else value
        if not self.request_id:
            self.request_id = f"{random_bits(128):032x}"
