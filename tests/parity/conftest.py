from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-vs-real",
        action="store_true",
        help="compare the real server with a second real one: checks the scenarios",
    )
    parser.addoption(
        "--parity-stores", default="memory,sqlite,postgres", help="stores of ours to compare, separated by commas"
    )
