"""What callers choose (names, ids, identities) reaches a log as text on one line."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest

from whistlestop.common.log_text import LineFormatter, escaped
from whistlestop.functions import bootstrap
from whistlestop.server.logs import FIELDS, LogFormat, configure

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = [
    "a\nb", "a\r\n2026-01-31T12:00:00.000Z ERROR forged", "\x1b[2J\x1b]0;title\x07", "\x9b31m", "\x85", "\u2028",
    "\u202egnp.exe", "\u2066x\u2069", "\x00\x08\x7f", "\ud800", "\ufeff",
]  # fmt: skip
FORBIDDEN = set("\x00\x07\x08\r\x1b\x7f\x85\x9b\u2028\u202e\u2066\u2069\ud800\ufeff")


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("form", LogFormat)
@pytest.mark.usefixtures("restored")
def test_a_record_is_one_line(form: LogFormat, text: str) -> None:
    """In its message, its arguments and each of its fields."""
    stream = io.StringIO()
    configure("debug", form, stream)
    logging.getLogger("x").warning("to %s", text, extra=dict.fromkeys(FIELDS, text))
    logging.getLogger("x").warning(text.replace("%", "%%"))
    written = stream.getvalue()
    assert written.count("\n") == 2
    assert not FORBIDDEN & set(written)
    if form is LogFormat.JSON:
        first, second = map(json.loads, written.splitlines())
        assert (first["msg"], second["msg"]) == (f"to {text}", text)
        assert first["workflow_id"] == text


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("form", LogFormat)
@pytest.mark.usefixtures("restored")
def test_no_line_of_a_traceback_passes_for_a_record(form: LogFormat, text: str) -> None:
    stream = io.StringIO()
    configure("debug", form, stream)
    try:
        {}[text]  # type: ignore[index]
    except KeyError:
        logging.getLogger("x").exception("failed: %s", text)
    first, *others = stream.getvalue().removesuffix("\n").split("\n")
    assert "failed" in first
    assert all(line.startswith("  ") for line in others)
    assert not FORBIDDEN & set(stream.getvalue())


@pytest.mark.parametrize("text", HOSTILE)
def test_the_bridge_writes_lines(text: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "to %s", (text,), None)
    line = LineFormatter("%(levelname)s %(message)s").format(record)
    assert line == f"INFO to {escaped(text)}"
    assert not (FORBIDDEN | {"\n"}) & set(line)


@pytest.mark.parametrize("text", HOSTILE)
def test_functions_write_lines(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    handler = bootstrap.PowertoolsHandler("frontend")
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "to %s", (text,), None))
    written = capsys.readouterr().out
    assert written.count("\n") == 1
    assert not FORBIDDEN & set(written)
    assert json.loads(written)["message"] == f"to {text}"
