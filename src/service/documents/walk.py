"""Checks a file's structure while its bytes come in: a walk is written as if they could simply be read.

A walk is a generator. It yields what it needs next and is sent it; it returns where the file has to end, and
raises `MalformedFile` where it is not what it should be. Only what a walk has asked for is held in memory.
"""

from collections.abc import Callable, Generator
from re import Pattern
from typing import NamedTuple, TypeAlias

PIECE_BYTES = 65_536
STEPS_MAX = 100_000
"""A file of more parts than any program writes was made to keep a core busy."""


class MalformedFile(ValueError):
    """What is wrong with a file, in words for whoever sent it."""


class ReadThrough(NamedTuple):
    """Everything up to and including the first match of a pattern of two bytes; the match is sent."""

    pattern: Pattern[bytes]


class ReadUpTo(NamedTuple):
    """So many bytes at most; none at the end of the file."""

    bytes_max: int


ReadRequest: TypeAlias = "int | ReadUpTo | ReadThrough"
"""An integer is exactly so many bytes."""
StructureCheck: TypeAlias = Generator[ReadRequest, bytes, None]


class StructureChecker:
    """Drives one walk through one file."""

    def __init__(self, walk: Callable[[], StructureCheck]) -> None:
        self._walk = walk()
        self._need: ReadRequest | None = next(self._walk)
        self._buffer = b""
        self._steps_left = STEPS_MAX

    def feed(self, chunk: bytes) -> None:
        """Raises `MalformedFile`."""
        held, position = self._buffer + chunk, 0
        while self._need is not None:
            if isinstance(self._need, ReadThrough):
                found = self._need.pattern.search(held, position)
                if found is None:
                    position = max(position, len(held) - 1)
                    break
                position = found.end()
                self._send(found[0])
            else:
                count = self._need if isinstance(self._need, int) else self._need.bytes_max
                if len(held) - position < count:
                    break
                position += count
                self._send(held[position - count : position])
        self._buffer = held[position:]
        if self._need is None and self._buffer:
            raise MalformedFile("something follows the end of the file")

    def end(self) -> None:
        """Raises `MalformedFile` unless this is where the file has to end."""
        while isinstance(self._need, ReadUpTo):
            held, self._buffer = self._buffer, b""
            self._send(held)
        if self._need is not None:
            raise MalformedFile("the file ends too early")

    def _send(self, data: bytes) -> None:
        self._steps_left -= 1
        require(self._steps_left, "it has too many parts")
        try:
            self._need = self._walk.send(data)
        except StopIteration:
            self._need = None


def require(condition: object, problem: str) -> None:
    if not condition:
        raise MalformedFile(problem)


def read_in_pieces(count: int) -> Generator[int, bytes, None]:
    """Asks for so many bytes in pieces, whatever they are."""
    while count > 0:
        yield min(count, PIECE_BYTES)
        count -= PIECE_BYTES
