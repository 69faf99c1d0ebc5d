"""Client file names: stored and sent back as data, never used as a path."""

import re
import unicodedata
from urllib.parse import quote

LENGTH_MAX = 255
SUFFIX_LENGTH_MAX = 16

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode categories of control characters, line breaks and format characters, such as direction overrides
that make an .exe look like a .png.
"""
JOINERS = frozenset("\u200c\u200d")
"""Format characters that several scripts need."""
UNQUOTABLE = re.compile(r'[^ -~]|["\\%]')


def clean(name: str, default: str) -> str:
    """Return the last path component without invisible characters, at most 255 characters."""
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    name = "".join(c for c in name if c in JOINERS or unicodedata.category(c) not in HIDDEN).strip()
    return _shortened(name) if name.strip(". \u200c\u200d") else default


def attachment(name: str) -> str:
    """Return a `Content-Disposition` (RFC 6266) with an ASCII fallback and the exact name (RFC 8187)."""
    return f"attachment; filename=\"{UNQUOTABLE.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"


def _shortened(name: str) -> str:
    """Shorten a name but keep its suffix, which programs rely on."""
    if len(name) <= LENGTH_MAX:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) >= SUFFIX_LENGTH_MAX:
        return name[:LENGTH_MAX]
    return stem[: LENGTH_MAX - len(suffix) - 1] + dot + suffix
