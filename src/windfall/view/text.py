"""Text as it may be shown: without credentials, and without what a terminal would obey."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"(?i)\b(password|passwd|secret|api[_-]?key|authorization|bearer|access[_-]?token|auth[_-]?token)\b[\"']?\s*[=:]?\s*\S{4,}"
)
_USERINFO = re.compile(r"://[^/\s:@]+:[^/\s@]+@")
#: What a terminal would obey, and what turns the direction of writing round. Ends of lines and tabs are text.
CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")


def printable(text: str) -> str:
    """``text`` from a file, a network or a model, with U+FFFD for what a terminal would obey."""
    return CONTROLS.sub("\ufffd", text)


def safe(text: str) -> str:
    """``text`` without anything that looks like a credential (invariant 9, once more at the edge)."""
    return _USERINFO.sub("://…@", _SECRET.sub(lambda m: f"{m.group(1)} …", text))
