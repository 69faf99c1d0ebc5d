"""Client file names: stored and sent back as data, never used as a path."""

import re
import unicodedata
from collections.abc import Sequence

LENGTH_MAX = 255
DEFAULT_STEM = "document"

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode categories of control characters, line breaks and format characters, such as direction overrides
that make an .exe look like a .png.
"""
JOINERS = frozenset("\u200c\u200d")
"""Format characters that several scripts need."""


def clean(name: str, suffixes: Sequence[str]) -> str:
    """Return the last path component without invisible characters, cut to 255 characters.

    Programs choose how to open a file by its suffix. A name that ends in none of `suffixes` therefore gets
    the first of them: `invoice.hta` becomes `invoice.hta.pdf`.
    """
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    name = (
        "".join(c for c in name if c in JOINERS or unicodedata.category(c) not in HIDDEN).strip().rstrip(". ")
    )
    stem, dot, suffix = name.rpartition(".")
    suffix = dot + suffix
    if not stem or suffix.lower() not in suffixes:
        stem, suffix = name, suffixes[0]
    if not stem.strip(". \u200c\u200d"):
        stem = DEFAULT_STEM
    return stem[: LENGTH_MAX - len(suffix)] + suffix
