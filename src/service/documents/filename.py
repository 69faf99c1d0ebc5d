"""File names are data: shown and sent back, never a path of ours."""

import re
import unicodedata
from urllib.parse import quote

LENGTH_MAX = 255
SUFFIX_LENGTH_MAX = 16

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode's categories of controls, line breaks and what formats text, such as the marks that reverse its
direction, so that an .exe looks like a .png.
"""
JOINERS = frozenset("\u200c\u200d")
"""These are of that kind, and several scripts need them."""
UNQUOTABLE = re.compile(r'[^ -~]|["\\%]')


def clean(name: str, default: str) -> str:
    """The last part of the path, without what cannot be seen; at most 255 characters."""
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    name = "".join(c for c in name if c in JOINERS or unicodedata.category(c) not in HIDDEN).strip()
    return _shortened(name) if name.strip(". \u200c\u200d") else default


def attachment(name: str) -> str:
    """`Content-Disposition` (RFC 6266): for old clients in ASCII, and as it is (RFC 8187)."""
    return f"attachment; filename=\"{UNQUOTABLE.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"


def _shortened(name: str) -> str:
    """Its suffix is kept: programs go by it."""
    if len(name) <= LENGTH_MAX:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) >= SUFFIX_LENGTH_MAX:
        return name[:LENGTH_MAX]
    return stem[: LENGTH_MAX - len(suffix) - 1] + dot + suffix
