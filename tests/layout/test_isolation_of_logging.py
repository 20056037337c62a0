"""What a test adds to the root logger is gone when the next one starts (`tests/conftest.py`)."""

from __future__ import annotations

import io
import logging

import pytest

MARK = "left by a test"


@pytest.mark.parametrize("attempt", range(8))
def test_no_handler_is_left_by_the_test_before(attempt: int) -> None:
    """Eight in a row, so that two of them run in one process however they are distributed."""
    root = logging.getLogger()
    assert [handler for handler in root.handlers if handler.name == MARK] == []
    handler = logging.StreamHandler(io.StringIO())
    handler.name = MARK
    root.addHandler(handler)
    root.setLevel(logging.DEBUG - attempt % 2)
