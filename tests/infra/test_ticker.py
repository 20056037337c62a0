"""Schedules of LocalStack fire when they are due, once, and go when they are asked to."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from infra.localstack.plugin.whistlestop_localstack.ticker import Ticker, next_due

NOON_S = 1_704_110_400.0  # 2024-01-01T12:00:00Z


@pytest.mark.parametrize(
    ("expression", "timezone", "speedup", "due_s"),
    [
        ("rate(5 minutes)", "UTC", 1.0, NOON_S + 300),
        ("rate(1 hour)", "UTC", 60.0, NOON_S + 60),
        ("rate(1 day)", "UTC", 1.0, NOON_S + 86400),
        ("at(2024-01-01T12:30:00)", "UTC", 1.0, NOON_S + 1800),
        ("at(2024-01-01T14:00:00)", "Europe/Berlin", 1.0, NOON_S + 3600),
        ("at(2024-01-01T12:00:00)", "UTC", 1.0, None),
    ],
)
def test_times_of_a_schedule(expression: str, timezone: str, speedup: float, due_s: float | None) -> None:
    assert next_due(expression, timezone, NOON_S, speedup) == due_s


@dataclass
class World:
    """One group of moto's with schedules in it."""

    fired: list[str] = field(default_factory=list)
    schedules: dict[str, Any] = field(default_factory=dict)

    @property
    def backends(self) -> Any:
        group = SimpleNamespace(schedules=self.schedules, delete_schedule=self.schedules.pop)
        return {"123456789012": {"eu-central-1": SimpleNamespace(schedule_groups={"default": group})}}

    def fire(self, account: str, region: str, schedule: Any) -> None:
        if schedule.name == "bad":
            raise RuntimeError("no such target")
        self.fired.append(schedule.name)

    def add(self, name: str, expression: str, after: str = "NONE", state: str = "ENABLED") -> None:
        self.schedules[name] = SimpleNamespace(
            name=name, arn=name, schedule_expression=expression, schedule_expression_timezone="UTC",
            creation_date=NOON_S, state=state, action_after_completion=after,
        )  # fmt: skip


@pytest.fixture
def world() -> World:
    return World()


def test_rates_fire_again_and_again(world: World) -> None:
    world.add("sweep", "rate(1 minute)")
    ticker = Ticker(world.fire)
    for second in range(0, 181, 10):
        ticker.tick(NOON_S + second, world.backends)
    assert world.fired == ["sweep"] * 3


def test_a_one_time_schedule_fires_once(world: World) -> None:
    """The one that asks for it goes, the other stays."""
    world.add("goes", "at(2024-01-01T12:01:00)", after="DELETE")
    world.add("stays", "at(2024-01-01T12:01:00)")
    ticker = Ticker(world.fire)
    for second in (59, 60, 61, 500):
        ticker.tick(NOON_S + second, world.backends)
    assert (world.fired, list(world.schedules)) == (["goes", "stays"], ["stays"])


def test_a_disabled_schedule_does_not_fire(world: World) -> None:
    world.add("off", "rate(1 minute)", state="DISABLED")
    Ticker(world.fire).tick(NOON_S + 600, world.backends)
    assert world.fired == []


def test_a_target_that_fails_stops_no_other(world: World) -> None:
    world.add("bad", "rate(1 minute)")
    world.add("good", "rate(1 minute)")
    Ticker(world.fire).tick(NOON_S + 60, world.backends)
    assert world.fired == ["good"]
