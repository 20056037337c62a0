"""Scenarios by area; importing this package registers all of them."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.parity.puppet import Puppet

    Play = Callable[[Puppet], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A script for one puppet."""

    name: str
    play: Play
    slow: bool = False
    limited: bool = False
    """On servers with low limits."""


SCENARIOS: dict[str, Scenario] = {}


def scenario(play: Play) -> Play:
    """Register a scenario under its module's and its own name."""
    return _register(play, slow=False)


def slow_scenario(play: Play) -> Play:
    """Register a scenario in which real timers of a second or more have to pass."""
    return _register(play, slow=True)


def limited_scenario(play: Play) -> Play:
    """Register a scenario for servers with low limits."""
    return _register(play, slow=False, limited=True)


def _register(play: Play, *, slow: bool, limited: bool = False) -> Play:
    name = f"{play.__module__.rsplit('.', 1)[1]}/{play.__name__}"
    assert name not in SCENARIOS, name
    SCENARIOS[name] = Scenario(name, play, slow, limited)
    return play


def load() -> dict[str, Scenario]:
    """All scenarios, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return SCENARIOS
