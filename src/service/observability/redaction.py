"""Redaction of log text: secrets are removed, and characters that move the cursor or start a line escaped."""

import re
from collections.abc import Callable, Iterable
from functools import partial

SECRET = re.compile(
    r"(?P<shown>depot_[0-9A-Za-z]{12}_|whsec_|://[^\s/:@]{0,256}+:)"
    r"(?P<hidden>(?<=:)[^\s@]{1,256}+(?=@)|(?<=_)[0-9A-Za-z+/=]+)"
)
"""An API key (its id may be shown), a webhook secret, or a password in a URL.

The bounds keep its time linear in the length of a client's text.
"""
PATH_LENGTH_MAX = 2048
"""A longer path is cut in the log."""
REDACTED_LENGTH_MIN = 8
"""Minimum length of a secret that is redacted everywhere.

A shorter one may be a common word and is redacted only in URLs.
"""


def redactor(secrets: Iterable[str] = ()) -> Callable[[str], str]:
    """Return a function that sanitizes a line of text and redacts `secrets`."""
    known = [re.escape(secret) for secret in secrets if len(secret) >= REDACTED_LENGTH_MIN]
    return partial(_redact, re.compile("|".join(known)) if known else None)


def redact_path(path: str) -> str:
    """Sanitize a path. It is called for every request, so it first checks whether there is anything to do."""
    if not path.isprintable() or "depot_" in path or "whsec_" in path:
        path = _redact(None, path)
    return path if len(path) <= PATH_LENGTH_MAX else f"{path[:PATH_LENGTH_MAX]}…"


def _redact(known: re.Pattern[str] | None, text: str) -> str:
    text = SECRET.sub(r"\g<shown>***", text)
    if known is not None:
        text = known.sub("***", text)
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    """Escape a character as in a Python literal, such as a line break or a direction override."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()
