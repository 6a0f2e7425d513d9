"""Text as it may be shown: without credentials, and without what a terminal would obey."""

from __future__ import annotations

import re
import unicodedata

_SECRET = re.compile(
    r"(?i)\b(password|passwd|secret|api[_-]?key|authorization|bearer|access[_-]?token|auth[_-]?token)\b[\"']?\s*[=:]?\s*\S{4,}"
)
_USERINFO = re.compile(r"://[^/\s:@]+:[^/\s@]+@")


def printable(text: str) -> str:
    """``text`` that a model wrote, with U+FFFD for control characters: a terminal would obey them."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in text)


def safe(text: str) -> str:
    """``text`` without anything that looks like a credential (invariant 9, once more at the edge)."""
    return _USERINFO.sub("://…@", _SECRET.sub(lambda m: f"{m.group(1)} …", text))
