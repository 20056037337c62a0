"""Structured logs: one line a record, for people (`pretty`, `text`) or for machines (`json`).

Payloads never reach a log: records carry identifiers only (`workflow_id`, `run_id`, `namespace`, … by `extra=`), and
protobuf messages in arguments are replaced by their type's name. Control characters are escaped.
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
"""Attributes of a record that are printed when they are there."""


class LogFormat(StrEnum):
    """As `--log-format` takes them."""

    TEXT = "text"
    PRETTY = "pretty"
    JSON = "json"


def configure(level: str, log_format: LogFormat, stream: IO[str] | None = None) -> None:
    """Send the logs of this process to `stream` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    handler.addFilter(silence_payloads)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    number = LEVELS[level.lower()]
    root.setLevel(number)
    # Libraries speak to their developers; ours to operators.
    for name in ("asyncio", "grpc", "psycopg", "psycopg.pool", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def silence_payloads(record: logging.LogRecord) -> bool:
    """Replace messages and bytes among the arguments by what they are."""
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
    """The identifiers that the record carries."""
    return {name: value for name in FIELDS if (value := getattr(record, name, None)) not in (None, "")}


def _instant(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """Such as `2026-01-31T12:00:00.000Z WARN  whistlestop.history: message workflow_id=order-1`."""

    def format(self, record: logging.LogRecord) -> str:
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        line = f"{_instant(record)} {level:5} {record.name}: {record.getMessage()}"
        for name, value in fields_of(record).items():
            line += f" {name}={value}"
        line = escaped(line)
        if record.exc_info:
            line += "\n" + escaped_lines(self.formatException(record.exc_info))
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with `ts`, `level`, `logger`, `msg` and the identifiers."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "level": "warn" if record.levelno == logging.WARNING else record.levelname.lower(),
            "ts": _instant(record),
            "msg": record.getMessage(),
            "logger": record.name,
            **fields_of(record),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        # JSON itself escapes no more than the first 32 characters.
        return escaped(json.dumps(entry, ensure_ascii=False, default=str))
