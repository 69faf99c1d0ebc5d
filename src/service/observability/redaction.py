"""What may stand in a log line: nothing that moves a cursor or begins a line of its own, and no secret."""

import re
from collections.abc import Callable, Iterable
from functools import partial

SECRET = re.compile(
    r"(?P<shown>depot_[0-9A-Za-z]{12}_|whsec_|://[^\s/:@]*:)(?P<hidden>(?<=:)[^\s@]+(?=@)|(?<=_)[0-9A-Za-z+/=]+)"
)
"""An API key (its id may be told), a webhook's secret, the password in a URL."""
REDACTED_LENGTH_MIN = 8
"""A shorter secret of the environment is hidden only where a URL shows it: it may be a word of everyday."""


def redactor(secrets: Iterable[str] = ()) -> Callable[[str], str]:
    """A function that makes a text fit for one line; `secrets` are hidden wherever they turn up."""
    known = [re.escape(secret) for secret in secrets if len(secret) >= REDACTED_LENGTH_MIN]
    return partial(_redact, re.compile("|".join(known)) if known else None)


def redact_path(path: str) -> str:
    """For every request, so it looks for the little there can be in a path before it does anything."""
    if path.isprintable() and "depot_" not in path and "whsec_" not in path:
        return path
    return _redact(None, path)


def _redact(known: re.Pattern[str] | None, text: str) -> str:
    text = SECRET.sub(r"\g<shown>***", text)
    if known is not None:
        text = known.sub("***", text)
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    """As Python writes it in a literal: line breaks, escapes of either width, marks that turn text around."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()
