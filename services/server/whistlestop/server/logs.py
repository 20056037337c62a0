"""Structured logs: one line a record, for people (`pretty`, `text`) or for machines (`json`).

Payloads are never logged: records carry only identifiers (`workflow_id`, `run_id`, `namespace`, … by `extra=`), and
protobuf messages in arguments are replaced by the names of their types. Control characters are escaped.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from enum import StrEnum
from typing import IO, Any

from google.protobuf.message import Message

from whistlestop.common.log_text import escaped, escaped_lines

LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "never": 100}
FIELDS = (
    "namespace",
    "workflow_id",
    "run_id",
    "workflow_type",
    "activity_type",
    "task_queue",
    "rpc",
    "code",
    "host_id",
)
"""Attributes that are printed if a record has them."""


class LogFormat(StrEnum):
    """Values of `--log-format`."""

    TEXT = "text"
    PRETTY = "pretty"
    JSON = "json"


def configure(level: str, log_format: LogFormat, stream: IO[str] | None = None) -> None:
    """Send the logs of this process to `stream` (by default standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    handler.addFilter(silence_payloads)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    number = LEVELS[level.lower()]
    root.setLevel(number)
    # Libraries log for their developers; only their warnings are for operators.
    for name in ("asyncio", "grpc", "psycopg", "psycopg.pool", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def silence_payloads(record: logging.LogRecord) -> bool:
    """Replace messages and bytes in the arguments of a record by descriptions. Return True (a logging filter)."""
    if isinstance(record.args, tuple) and record.args:
        record.args = tuple(_described(value) for value in record.args)
    return True


def _described(value: object) -> object:
    if isinstance(value, Message):
        return f"<{value.DESCRIPTOR.full_name}>"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return value


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the identifiers of a record that are set; empty without any."""
    return {name: value for name in FIELDS if (value := getattr(record, name, None)) not in (None, "")}


def _instant(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """Formats lines such as `2026-01-31T12:00:00.000Z WARN  whistlestop.history: message workflow_id=order-1`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of text, with its traceback if it has one."""
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        line = f"{_instant(record)} {level:5} {record.name}: {record.getMessage()}"
        for name, value in fields_of(record).items():
            line += f" {name}={value}"
        line = escaped(line)
        if record.exc_info:
            line += "\n" + escaped_lines(self.formatException(record.exc_info))
        return line


class JsonFormatter(logging.Formatter):
    """Formats a JSON object a line, with `ts`, `level`, `logger`, `msg` and the identifiers."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one JSON object in a line, with its traceback if it has one."""
        entry: dict[str, Any] = {
            "level": "warn" if record.levelno == logging.WARNING else record.levelname.lower(),
            "ts": _instant(record),
            "msg": record.getMessage(),
            "logger": record.name,
            **fields_of(record),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        # JSON itself only escapes the first 32 characters.
        return escaped(json.dumps(entry, ensure_ascii=False, default=str))
