"""When schedules fire: rate(…), at(…) and cron(…) in EventBridge Scheduler's syntax.

Nothing here depends on LocalStack; the schedules are moto's models.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}
_log = logging.getLogger(__name__)


def next_due(expression: str, timezone: str, last_s: float, speedup: float = 1.0) -> float | None:
    """Return when a schedule that last fired (or was created) at `last_s` fires, in epoch seconds.

    Returns None if it never fires again.
    """
    kind, _, body = expression.rstrip(")").partition("(")
    if kind == "rate":
        number, unit = body.split()
        return last_s + int(number) * _SECONDS[unit.rstrip("s")] / speedup
    if kind == "at":
        due_s = dt.datetime.fromisoformat(body).replace(tzinfo=ZoneInfo(timezone)).timestamp()
        return due_s if due_s > last_s else None
    return _next_cron(body, timezone, last_s)


def _next_cron(fields: str, timezone: str, last_s: float) -> float | None:
    from crontab import CronTab

    minute, hour, day, month, weekday, year = fields.split()
    if weekday[:1].isdigit():
        # AWS numbers the days of the week from 1 (Sunday), crontab from 0.
        weekday = ",".join(str(int(each) - 1) for each in weekday.split(","))
    words = (each.replace("?", "*") for each in (minute, hour, day, month, weekday, year))
    last = dt.datetime.fromtimestamp(last_s, ZoneInfo(timezone))
    wait_s = CronTab(" ".join(words)).next(last, default_utc=False)
    return None if wait_s is None else last_s + float(wait_s)


@dataclass(slots=True)
class Ticker:
    """Fires schedules, once for each time; times that were missed while nothing ticked fire once."""

    fire: Callable[[str, str, Any], None]
    speedup: float = 1.0
    _last_s: dict[str, float] = field(default_factory=dict)

    def tick(self, now_s: float, backends: Any) -> None:
        for account, region, group, schedule in _schedules(backends):
            key = f"{schedule.arn}|{schedule.schedule_expression}|{schedule.creation_date}"
            # Start from the creation date, since a schedule may be first seen after its time.
            since_s = self._last_s.setdefault(key, float(schedule.creation_date))
            if schedule.state != "ENABLED":
                continue
            due_s = next_due(schedule.schedule_expression, schedule.schedule_expression_timezone, since_s, self.speedup)
            if due_s is None or due_s > now_s:
                continue
            self._last_s[key] = now_s
            if schedule.schedule_expression.startswith("at(") and schedule.action_after_completion == "DELETE":
                group.delete_schedule(schedule.name)
            try:
                self.fire(account, region, schedule)
            except Exception:
                _log.exception("schedule %s", schedule.name)


def _schedules(backends: Any) -> Iterator[tuple[str, str, Any, Any]]:
    for account, regions in list(backends.items()):
        for region, backend in list(regions.items()):
            for group in list(backend.schedule_groups.values()):
                for schedule in list(group.schedules.values()):
                    yield account, region, group, schedule
