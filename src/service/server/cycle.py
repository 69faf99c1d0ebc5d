"""A request and its reply on a connection, with the reply in one system call (decision 0016)."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

Fields = list[tuple[bytes, bytes]]


class Cycle(RequestResponseCycle):
    """uvicorn's cycle, but the head of a reply of known length is sent with the first part of its body."""

    _head: bytes | None = None
    """The head that is not sent yet."""

    async def send(self, message: Any) -> None:
        if self._head is not None:
            await self._send_body(self._head, message)
        elif message["type"] != "http.response.start" or not self._keep_head(message):
            await super().send(message)

    def _keep_head(self, message: Any) -> bool:
        """Keep the head of an ordinary reply until its body comes; return False for any other reply."""
        fields = [*self.default_headers, *message["headers"]]
        length = self._ordinary_length(fields)
        if length is None:
            return False
        head = [STATUS_LINE[message["status"]]]
        for name, value in fields:
            head += (name, b": ", value, b"\r\n")
        self._head = b"".join([*head, b"\r\n"])
        self.response_started = True
        self.waiting_for_100_continue = self.chunked_encoding = False
        self.expected_content_length = length
        return True

    def _ordinary_length(self, fields: Fields) -> int | None:
        """Return the length of the content, or None if the reply needs uvicorn's other steps or checks."""
        names = dict(fields)
        if self.response_started or not self.keep_alive or self.scope["method"] == "HEAD":
            return None
        if b"content-length" not in names or b"connection" in names or b"transfer-encoding" in names:
            return None
        values = b"".join([value for _, value in fields])
        return int(names[b"content-length"]) if values.decode("latin-1").isprintable() else None

    async def _send_body(self, head: bytes, message: Any) -> None:
        """Send the head with the first part of the body."""
        body, self._head = message.get("body", b""), None
        if self.disconnected:
            return
        if self.flow.write_paused or message.get("more_body") or len(body) != self.expected_content_length:
            self.transport.write(head)
            await super().send(message)
            return
        self.expected_content_length, self.response_complete = 0, True
        self.transport.write(head + body)
        self.message_event.set()
        if not self.keep_alive:  # the server stops
            self.transport.close()
        self.on_response()
