"""From counted usage to dollars."""

from __future__ import annotations

from pathlib import Path

import pytest

from whistlestop.deploy import guide, prices
from whistlestop.deploy.prices import Usage, bill


def test_calls_are_billed_by_memory_and_time() -> None:
    """A million calls of 100 ms in 512 MB are 50,000 GB-seconds."""
    used = Usage.of_calls(1_000_000, mean_ms=100, memory_mb=512)
    assert used == Usage(invocations=1_000_000, gb_seconds=50_000)
    assert bill(used, free_tier=False).functions == pytest.approx(0.20 + 50_000 * 0.0000133334)


def test_the_free_tier_is_subtracted_from_each_line() -> None:
    used = Usage(invocations=2_000_000, sqs_requests=1_500_000, schedules_fired=1_000, dpu=100_000, log_gb=7)
    made = bill(used, alarms=12)
    assert made.lines() == pytest.approx({"functions": 0.20, "queues": 0.20, "logs": 1.0, "alarms": 0.20})
    assert made.total == pytest.approx(1.60)


def test_usage_adds_up_and_scales() -> None:
    assert (Usage(invocations=2, statements=3) + Usage(statements=1)) * 2 == Usage(invocations=4, statements=8)


def test_an_idle_stack_costs_cents() -> None:
    """Sweeps, and the long polls with which Lambda watches the queue of wakes; nothing with what is free each month."""
    idle = prices.idle_month(sweep_minutes=15)
    assert idle.invocations == pytest.approx(4 * 730 + 730 / 24)
    assert bill(idle).total == 0
    assert 0.2 < bill(idle, free_tier=False).total < 0.3


def test_the_alternatives() -> None:
    assert prices.temporal_cloud(500_000) == 100
    assert prices.temporal_cloud(3_000_000) == 200
    assert prices.step_functions(1_004_000) == pytest.approx(25)
    database = prices.small_ec2(own_database=True) - prices.small_ec2(own_database=False)
    assert database == pytest.approx(prices.small_rds())
    assert prices.small_rds() == pytest.approx(0.016 * 730 + 2.3)


def _of_page() -> dict[tuple[str, str], tuple[Usage, float]]:
    """Usage of one workflow, and dollars of a million, by the rows of docs/cost.md."""
    rows = {}
    for line in (Path(__file__).parents[2] / "docs" / "cost.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[0].partition(",")[0] in ("echo", "saga", "timer", "schedule"):
            invocations, gb_seconds, statements, sqs, _, dollars = map(float, cells[2:])
            rows[cells[0], cells[1]] = Usage(invocations, gb_seconds, sqs, statements=statements), dollars
    return rows


def test_the_page_of_costs_has_its_dollars_from_its_counts() -> None:
    """Within what rounded counts leave open."""
    rows = _of_page()
    assert len(rows) > 15
    computed = {name: bill(usage * 1_000_000, free_tier=False).total for name, (usage, _) in rows.items()}
    assert {name: dollars for name, (_, dollars) in rows.items()} == pytest.approx(computed, abs=0.3)


def test_the_estimate_of_a_deployment_is_of_what_was_counted() -> None:
    assert _of_page()["echo", "pulled"][0] == guide.ECHO
