"""Keep logged text on one line: control characters, line ends and changes of reading direction are escaped.

Callers choose the names of workflows, queues and identities, which are logged. Unescaped, they could add lines that
look like ours, or change what the terminal of whoever reads the log shows.
"""

from __future__ import annotations

import logging
import re

CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # reading directions
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # line ends and what is not shown
    "\ud800-\udfff]"  # halves of characters, which no log can be written with
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(text: str) -> str:
    """Return the text with control characters (CONTROLS) replaced by JSON (and Python) escape sequences."""
    return CONTROLS.sub(_escape, text) if CONTROLS.search(text) else text


def escaped_lines(text: str) -> str:
    """Return a text of several lines, such as a traceback, escaped and indented so that no line looks like a record."""
    return "\n".join(f"  {escaped(line)}" for line in text.split("\n"))


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return _SHORT.get(character) or f"\\u{ord(character):04x}"


class LineFormatter(logging.Formatter):
    """logging's formatter, with each record's message on one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the message, escaped."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - as above
        """Return the traceback, escaped and indented."""
        return escaped_lines(super().formatException(ei))  # type: ignore[arg-type]  # what logging hands over
