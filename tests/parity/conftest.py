from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-record",
        action="store_true",
        help="record the transcripts of the real server anew, and compare nothing",
    )
    parser.addoption(
        "--parity-stores",
        default="memory,sqlite,postgres",
        help="stores of ours to compare, separated by commas; `real` for the real server itself",
    )
