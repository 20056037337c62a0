"""Text in logs stays on its line: what moves a cursor, ends a line or turns the reading direction is escaped.

Names of workflows, queues and identities are chosen by callers and are logged. As they are, they could add lines that
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
    """Return the text with each such character as an escape sequence of JSON (and of Python)."""
    return CONTROLS.sub(_escape, text) if CONTROLS.search(text) else text


def escaped_lines(text: str) -> str:
    """Return text of several lines, such as a traceback's, each escaped and indented: none can pass for a record."""
    return "\n".join(f"  {escaped(line)}" for line in text.split("\n"))


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return _SHORT.get(character) or f"\\u{ord(character):04x}"


class LineFormatter(logging.Formatter):
    """As logging's own, with a record's message on one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - as above
        """Return the traceback."""
        return escaped_lines(super().formatException(ei))  # type: ignore[arg-type]  # what logging hands over
