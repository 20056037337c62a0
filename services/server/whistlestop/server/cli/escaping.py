"""Text from callers, made safe for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.log_text import CONTROLS

if TYPE_CHECKING:
    import re

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(value: object) -> str:
    """Return the text with control characters as backslash sequences."""
    return CONTROLS.sub(_escape, str(value))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _NAMED.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
