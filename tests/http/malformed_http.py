"""Streams that are hardly HTTP: what a scanner, a broken proxy or an attacker sends, all from one seed."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

BODY = b'{"status": "on"}'
SMUGGLED = "smuggled"
TRAILERS = [b"X: t", b"X: " + b"t" * 600_000, b'If-Match: "77"\r\nContent-Type: text/plain']


class Stream(NamedTuple):
    """The bytes that one connection sends. `ids` are those of its requests, or None if they are not clear."""

    kind: str
    sent: bytes
    ids: list[str] | None
    requests: int
    """The maximum number of requests that a correct parser could read."""
    leaves: bool = False
    """Whether the client disconnects without waiting for a reply."""


class Mangler:
    """One stream and all that is random about it. `name` is its seed, and how its requests' ids begin."""

    def __init__(self, name: str, key: str) -> None:
        self.random = Random(name)
        self._name = name
        self._key = key
        self._count = 0

    def stream(self) -> Stream:
        kinds: list[Callable[[], Stream]] = [
            *(self.noise, self.mutated, self.huge, self.chunked_badly, self.smuggling, self.pipelined),
            *(self.left_early, self.upgrading, self.expecting),
        ]
        return self.random.choice(kinds)()

    def request(
        self, method: str, path: str, *headers: str, body: bytes = b"", request_id: str = ""
    ) -> bytes:
        lines = [
            *(f"{method} {path} HTTP/1.1", "Host: depot", f"Authorization: Bearer {self._key}"),
            *(f"X-Request-ID: {request_id or self.new_id()}", *headers),
        ]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    def new_id(self) -> str:
        self._count += 1
        return f"{self._name}.{self._count}"

    def put(self, *headers: str, request_id: str = "") -> bytes:
        """The head of a request with a body, whose length is up to `headers`."""
        head = self.request("PUT", f"/resources/r{self.random.randrange(9)}", *headers, request_id=request_id)
        return head.replace(b"\r\n\r\n", b"\r\nContent-Type: application/json\r\n\r\n")

    def last(self) -> tuple[str, bytes]:
        """A request that ends the connection, unless what came before takes it for something else."""
        request_id = self.new_id()
        return request_id, self.request("GET", "/health/live", "Connection: close", request_id=request_id)

    def noise(self) -> Stream:
        return Stream("noise", self.random.randbytes(self.random.randint(1, 4096)) + b"\r\n\r\n", None, 1)

    def mutated(self) -> Stream:
        """A good request with some bytes changed, doubled, removed or put in."""
        sent = bytearray(self.request("PUT", "/resources/r1", body=BODY) + self.last()[1])
        for _ in range(self.random.randint(1, 6)):
            at = self.random.randrange(len(sent))
            new = self.random.choice(
                [b"", b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\xff", b"\r\n", b"\r\n\r\n"]
            )
            sent[at : at + self.random.choice([0, 1, 1, 2])] = new
        return Stream("mutated", bytes(sent), None, 3)

    def huge(self) -> Stream:
        size = self.random.choice([8_000, 60_000, 66_000, 140_000, 600_000])
        many = [f"X-{number}: {'x' * 20}" for number in range(size // 20)]
        request_id, last = self.last()
        whole = self.random.choice(
            [
                lambda: self.request(
                    "GET", "/health/live", f"X-Long: {'x' * size}", request_id=f"{request_id}a"
                ),
                lambda: self.request("GET", "/health/live", *many, request_id=f"{request_id}a"),
                lambda: self.request("GET", f"/items?q={'x' * size}", request_id=f"{request_id}a"),
                lambda: self.request("GET", f"/{'x' * size}", request_id=f"{request_id}a"),
            ]
        )()
        return Stream("huge", whole + last, [f"{request_id}a", request_id], 2)

    def chunked_badly(self) -> Stream:
        one = self.new_id()
        size = b"%x" % len(BODY)
        bodies = [
            *(b"-1\r\n" + BODY, b"fffffffffffffffff\r\n" + BODY, b"g\r\n" + BODY, b"0x10\r\n" + BODY),
            *(size + BODY, b"\r\n" + BODY, size + b" \r\n" + BODY, size + b"\r\n" + BODY + b"0\r\n\r\n"),
            *(size + end + BODY + b"\r\n0\r\n\r\n" for end in (b"\n", b"\r", b";x\r\n")),
            *(size + b"\r\n" + BODY + end for end in (b"XX0\r\n\r\n", b"\r\n00000\r\n\r\n")),
            *(size + b";" + b"e" * length + b"\r\n" + BODY + b"\r\n0\r\n\r\n" for length in (10, 600_000)),
            *(size + b"\r\n" + BODY + b"\r\n0\r\n" + trailer + b"\r\n\r\n" for trailer in TRAILERS),
        ]
        body = self.random.choice(bodies)
        last_id, last = self.last()
        return Stream(
            "chunks", self.put("Transfer-Encoding: chunked", request_id=one) + body + last, [one, last_id], 2
        )

    def smuggling(self) -> Stream:
        """Two ways to read where the first request ends; the second one would hold a request in its body."""
        one, inner = self.new_id(), self.smuggled()
        size, chunked = len(BODY), b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        framing = self.random.choice([
            (f"Content-Length: {len(chunked + inner)}", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked", f"Content-Length: {len(chunked + inner)}"),
            (f"Content-Length: {len(chunked + inner)}", f"Content-Length: {len(chunked)}"),
            (f"Content-Length: {len(chunked)}, {len(chunked + inner)}",),
            (f"Content-Length: {len(chunked + inner)}", f"Content-Length: {len(chunked + inner)}"),
            (f"Content-Length: {len(chunked + inner)}", "Transfer-Encoding : chunked"),
            (f"Content-Length: {len(chunked + inner)}", " Transfer-Encoding: chunked"),
            (f"Content-Length: {len(chunked + inner)}", "X: y\r\n Transfer-Encoding: chunked"),
            (f"Content-Length: {len(chunked + inner)}", "X: y\nTransfer-Encoding: chunked"),
            (f"Content-Length: {len(chunked + inner)}", "X: y\rTransfer-Encoding: chunked"),
            (f"Content-Length: {len(chunked + inner)}", "Transfer-Encoding: xchunked"),
            (f"Content-Length: {len(chunked + inner)}", "Transfer-Encoding: chunked, identity"),
            (f"Content-Length: {len(chunked + inner)}", "Transfer-Encoding: \x0bchunked"),
            (f"Content-Length: {len(chunked + inner)}", "Transfer_Encoding: chunked"),
            (f"Content-Length: +{len(chunked + inner)}",),
            (f"Content-Length: {len(chunked + inner)} ",),
            (f"Content-Length: 0x{len(chunked + inner):x}",),
            (f"Content-Length: -{size}",),
            (f"Content-Length:\r\n {len(chunked + inner)}",),
            ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
            ("Transfer-Encoding: chunked", f"Content-Length: {size}", "Connection: Content-Length"),
        ])  # fmt: skip
        sent = self.put(*framing, request_id=one) + chunked + inner
        last_id, last = self.last()
        return Stream("smuggling", sent + last, [one, last_id], 2)

    def smuggled(self) -> bytes:
        return self.request("PUT", f"/resources/{SMUGGLED}", body=BODY, request_id=SMUGGLED)

    def pipelined(self) -> Stream:
        """Good requests in one go, and perhaps something broken behind them that has to wait its turn."""
        ids = [self.new_id() for _ in range(self.random.randint(2, 12))]
        ways = [
            ("GET", "/items", b""),
            ("GET", "/nope", b""),
            ("PUT", "/resources/r2", BODY),
            ("DELETE", "/items", b""),
        ]
        sent = b""
        for request_id in ids:
            method, path, body = self.random.choice(ways)
            sent += self.request(method, path, body=body, request_id=request_id)
        if self.random.random() < 0.5:
            return Stream("pipelined", sent + b"rubbish\r\n\r\n", [*ids, "?"], len(ids) + 1)
        last_id, last = self.last()
        return Stream("pipelined", sent + last, [*ids, last_id], len(ids) + 1)

    def left_early(self) -> Stream:
        sent = self.pipelined().sent
        return Stream("left", sent[: self.random.randrange(1, len(sent))], None, 99, leaves=True)

    def upgrading(self) -> Stream:
        one, (last_id, last) = self.new_id(), self.last()
        to = self.random.choice(["h2c", "websocket", "TLS/1.0", "x"])
        method = self.random.choice(["GET", "PUT", "CONNECT"])
        body = BODY if method == "PUT" else b""
        sent = self.request(
            method, "/resources/r3", "Connection: Upgrade", f"Upgrade: {to}", body=body, request_id=one
        )
        return Stream("upgrade", sent + last, [one, last_id], 2)

    def expecting(self) -> Stream:
        one, (last_id, last) = self.new_id(), self.last()
        expected = self.random.choice(["100-continue", "100-CONTINUE", "nonsense"])
        sent = self.request("PUT", "/resources/r4", f"Expect: {expected}", body=BODY, request_id=one)
        return Stream("expect", sent + last, [one, last_id], 2)
