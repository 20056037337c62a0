"""What holds for all tests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.hangs import Watchdog

if TYPE_CHECKING:
    from collections.abc import Generator

_watchdog = pytest.StashKey[Watchdog]()


def pytest_configure(config: pytest.Config) -> None:
    """Create the watchdog while pytest does not capture stderr."""
    config.stash[_watchdog] = Watchdog()


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, object, object]:
    """Let the process end some time after the timeout of a test that does not."""
    result = yield
    item.config.stash[_watchdog].start(settings.timeout)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Watch a test until its fixtures have ended, also after pytest-timeout has stopped its timer.

    Then take away what it has added to the root logger: a handler would write to a stderr that is captured no more.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return (yield)
    finally:
        item.config.stash[_watchdog].stop()
        root.handlers[:] = handlers
        root.setLevel(level)
