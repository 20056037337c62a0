"""Schedules: what is kept of them, their times, what they start, what becomes of overlaps.

The real server applies patches and updates behind the caller's back, so their effect is waited for.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.parity.commands import complete_workflow, fail_workflow
from tests.parity.puppet import attribute, cases, payload, payloads, seconds
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.parity.puppet import Puppet

FAR = {"year": "2090"}
"""A calendar that never comes while the test runs."""
PREFIX = "SCHEDULE_OVERLAP_POLICY_"


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _action(p: Puppet, workflow_id: str = "wf", **fields: Any) -> dict[str, Any]:
    return {
        "start_workflow": {
            "workflow_id": p.id(workflow_id),
            "workflow_type": {"name": "Journey"},
            "task_queue": {"name": p.task_queue},
            **fields,
        }
    }


def _fields(p: Puppet, schedule_id: str = "s", **fields: Any) -> dict[str, Any]:
    schedule = {"spec": {"calendar": [FAR]}, "action": _action(p), **fields.pop("schedule", {})}
    return {
        "schedule_id": p.id(schedule_id),
        "request_id": p.id(f"create-{schedule_id}"),
        "identity": "client",
        "schedule": schedule,
        **fields,
    }


async def _create(p: Puppet, schedule_id: str = "s", **fields: Any) -> None:
    await p.call("CreateSchedule", **_fields(p, schedule_id, **fields))


async def _until(p: Puppet, holds: Callable[[Any], bool], schedule_id: str = "s") -> Any:
    """Describe when the schedule has come so far."""
    for _ in range(6000):
        answer = await p.call("DescribeSchedule", record=False, schedule_id=p.id(schedule_id))
        if holds(answer):
            break
        await asyncio.sleep(0.05)
    return await p.call("DescribeSchedule", schedule_id=p.id(schedule_id))


async def _patch(p: Puppet, schedule_id: str = "s", **patch: Any) -> None:
    await p.call("PatchSchedule", schedule_id=p.id(schedule_id), identity="client", patch=patch)


def _backfill(start: str, end: str, policy: str = "UNSPECIFIED") -> list[dict[str, Any]]:
    return [{"start_time": instant(start), "end_time": instant(end), "overlap_policy": f"{PREFIX}{policy}"}]


async def _delete(p: Puppet, schedule_id: str = "s") -> None:
    await p.call("DeleteSchedule", schedule_id=p.id(schedule_id), identity="client")


@scenario
async def described_as_created(p: Puppet) -> None:
    await _create(
        p,
        schedule={
            "spec": {
                "calendar": [{"second": "1", "minute": "2-3", "hour": "4-5/6", "day_of_month": "7", "comment": "c"}],
                "structured_calendar": [{"second": [{"start": 5, "end": 7, "step": 2}], "year": [{"start": 2080}]}],
                "cron_string": ["0 12 * * MON # noon", "@daily", "@every 5h/1h"],
                "interval": [{"interval": seconds(90), "phase": seconds(5)}],
                "exclude_structured_calendar": [{"hour": [{"start": 9}]}],
                "start_time": instant("2085-01-01"),
                "end_time": instant("2086-01-01"),
                "jitter": seconds(1.5),
                "timezone_name": "Europe/Berlin",
            },
            "action": _action(
                p,
                input=payloads("x"),
                memo={"fields": {"m": payload("m")}},
                workflow_execution_timeout=seconds(9),
                search_attributes={"indexed_fields": {"ParityKeyword": attribute('"k"')}},
                header={"fields": {"h": payload("h")}},
                user_metadata={"summary": payload("sum")},
            ),
            "policies": {
                "overlap_policy": f"{PREFIX}BUFFER_ONE",
                "catchup_window": seconds(3),
                "pause_on_failure": True,
            },
            "state": {"notes": "note", "paused": True, "limited_actions": True, "remaining_actions": 3},
        },
        memo={"fields": {"own": payload("own")}},
        search_attributes={"indexed_fields": {"ParityInt": attribute("3", "Int")}},
    )
    await _until(p, lambda _: True)
    await _delete(p)


@scenario
async def defaults(p: Puppet) -> None:
    await _create(p, schedule={"spec": {}})
    await _until(p, lambda _: True)
    await p.refused("CreateSchedule", **_fields(p, request_id=p.id("another")))
    await p.call("CreateSchedule", **_fields(p, schedule={"spec": {}}))
    await _delete(p)
    await p.refused("DescribeSchedule", schedule_id=p.id("s"))
    await p.refused("DeleteSchedule", schedule_id=p.id("s"))
    await p.refused("PatchSchedule", schedule_id=p.id("s"), patch={"pause": "x"})
    await p.call("CreateSchedule", **_fields(p, request_id=p.id("again")))
    await _delete(p)


@scenario
async def what_is_not_there(p: Puppet) -> None:
    for rpc, fields in (
        ("DescribeSchedule", {}),
        ("DeleteSchedule", {}),
        ("PatchSchedule", {"patch": {"pause": "x"}}),
        ("UpdateSchedule", {"schedule": {"action": _action(p)}}),
        ("ListScheduleMatchingTimes", {"start_time": instant("2030-01-01"), "end_time": instant("2030-01-02")}),
    ):
        await p.refused(rpc, schedule_id=p.id("nobody"), **fields)


@scenario
async def refusals(p: Puppet) -> None:
    for fields in cases(
        {"schedule_id": ""},
        {"request_id": ""},
        {"request_id": "r" * 1001},
        {"schedule_id": "s" * 1000},
        {"search_attributes": {"indexed_fields": {"Nobody": attribute('"x"')}}},
    ):
        await p.attempt("CreateSchedule", **(_fields(p) | fields))
    for action in cases(
        {"workflow_id": ""},
        {"workflow_id": "w" * 999},
        {"workflow_type": {}},
        {"workflow_type": {"name": "t" * 1001}},
        {"task_queue": {}},
        {"task_queue": {"name": "/_sys/x"}},
        {"workflow_execution_timeout": seconds(-1)},
        {"cron_schedule": "* * * * *"},
        {"workflow_id_reuse_policy": "WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE"},
        {"search_attributes": {"indexed_fields": {"Nobody": attribute('"x"')}}},
    ):
        await p.attempt("CreateSchedule", **_fields(p, schedule={"action": _action(p, **{"workflow_id": p.id("w"), **action})}))  # fmt: skip
    await p.attempt("PatchSchedule", schedule_id=p.id("s"))
    await p.attempt("PatchSchedule", schedule_id=p.id("s"), patch={"pause": "p" * 1001})


@scenario
async def specs_that_are_wrong(p: Puppet) -> None:
    for spec in cases(
        {"calendar": [{"second": "60"}]},
        {"calendar": [{"minute": "5-1"}]},
        {"calendar": [{"hour": "1-2-3", "minute": "x"}]},
        {"calendar": [{"hour": "1/2/3"}]},
        {"calendar": [{"hour": "1/"}]},
        {"calendar": [{"hour": "1/x"}]},
        {"calendar": [{"hour": "1/0"}]},
        {"calendar": [{"month": "ja"}]},
        {"calendar": [{"day_of_week": "8"}]},
        {"calendar": [{"year": "1999"}]},
        {"calendar": [{"comment": "c" * 201}]},
        {"cron_string": ["* * * *"]},
        {"cron_string": ["* * * * * * * *"]},
        {"cron_string": ["TZ=UTC"]},
        {"cron_string": ["@every"]},
        {"cron_string": ["@every x"]},
        {"cron_string": ["@sometimes"]},
        {"cron_string": ["TZ=Europe/Berlin 0 0 * * *", "0 1 * * *"]},
        {"cron_string": ["TZ=Europe/Berlin 0 0 * * *"], "timezone_name": "UTC"},
        {"timezone_name": "Nowhere/Land"},
        {"timezone_data": b"nonsense"},
        {"structured_calendar": [{"hour": [{"start": 24}], "minute": [{"start": 9, "end": 3}, {"step": -1}]}]},
        {"structured_calendar": [{"day_of_month": [{"start": 0}], "month": [{"start": 13}], "year": [{"start": 1}]}]},
        {"interval": [{"interval": seconds(0.5)}]},
        {"interval": [{"interval": seconds(5), "phase": seconds(-1)}]},
        {"interval": [{"interval": seconds(5), "phase": seconds(5)}]},
    ):
        await p.attempt("CreateSchedule", **_fields(p, schedule={"spec": spec}))


@scenario
async def intervals_that_are_no_durations(p: Puppet) -> None:
    await p.call("CreateSchedule", **_fields(p, schedule={"spec": {"interval": [{"interval": seconds(60)}]}}))
    for span in cases(
        {"seconds": 2, "nanos": -1},
        {"seconds": -2, "nanos": 1},
        {"seconds": 1, "nanos": 1_000_000_000},
        {"seconds": 1, "nanos": -1_000_000_000},
        {"nanos": 2_000_000_000},
        {"seconds": 315_576_000_001},
        {"seconds": -315_576_000_001, "nanos": 5},
        {"seconds": 2**63 - 1, "nanos": 2**31 - 1},
        {"seconds": 1, "nanos": 999_999_999},
        {"seconds": 315_576_000_000},
    ):
        for interval in ({"interval": span}, {"interval": seconds(60), "phase": span}):
            spec = {"interval": [{"interval": seconds(60)}, interval]}
            await p.attempt("UpdateSchedule", **_fields(p, schedule={"spec": spec}))


@scenario
async def matching_times(p: Puppet) -> None:
    """Not the hour that comes twice east of Greenwich, in which the real server loses times."""
    everything = {"end": 59}
    days = {
        "day_of_month": [{"start": 1, "end": 31}],
        "month": [{"start": 1, "end": 12}],
        "day_of_week": [{"start": 0, "end": 6}],
    }
    for number, spec in enumerate(
        cases(
            {"cron_string": ["0 12 * * MON"]},
            {"cron_string": ["*/20 1-3 * * *"], "timezone_name": "Europe/Berlin",
             "end_time": instant("2025-10-25T23:00:00")},
            {"cron_string": ["TZ=America/New_York 30 2 * * *"]},
            {"cron_string": ["0 0 31 * *"]},
            {"cron_string": ["@every 7h/90m"]},
            {"cron_string": ["0 0 * * 5-7/2"]},
            {"calendar": [{"hour": "*/11", "day_of_week": "tue-thu"}, {"minute": "7,9", "hour": "23"}]},
            {"calendar": [{"hour": "*"}], "exclude_structured_calendar": [
                {"second": [everything], "minute": [everything], "hour": [{"end": 20}], **days}]},
            {"interval": [{"interval": seconds(36000), "phase": seconds(3)}], "timezone_name": "Asia/Kolkata"},
            {"interval": [{"interval": seconds(3601)}], "start_time": instant("2025-03-31T20:00:00"),
             "end_time": instant("2025-04-01T03:00:00")},
            {"structured_calendar": [{"hour": [{"start": 2}], **days}]},
            {"structured_calendar": [{"second": [{"start": 2}], "minute": [{}], "hour": [{"start": 2}], **days}],
             "timezone_name": "Australia/Lord_Howe"},
        )
    ):  # fmt: skip
        await _create(p, f"s{number}", schedule={"spec": spec, "state": {"paused": True}})
        for start, end in (("2025-03-07", "2025-03-11"), ("2025-03-28", "2025-04-08"), ("2025-10-24", "2025-11-04")):
            answer = await p.attempt(
                "ListScheduleMatchingTimes", record=False, schedule_id=p.id(f"s{number}"),
                start_time=instant(start), end_time=instant(end),
            )  # fmt: skip
            p.note(f"{spec} {start}", [f"at {each.ToJsonString()}" for each in answer.start_time])
        await _delete(p, f"s{number}")


@scenario
async def triggered(p: Puppet) -> None:
    """The second run gets the result of the first, the third that result and the second's failure."""
    await _create(p, schedule={"action": _action(p, input=payloads("x"), memo={"fields": {"m": payload("m")}})})
    ends = (complete_workflow("first"), fail_workflow("second"), complete_workflow("third"))
    for number, end in enumerate(ends, 1):
        at = instant(f"2026-01-0{number}T03:04:05")
        await _patch(p, trigger_immediately={"scheduled_time": at})
        described = await _until(p, lambda answer, n=number: answer.info.action_count == n)  # type: ignore[misc]
        started = described.info.recent_actions[-1].start_workflow_result
        task = await p.workflow_task()
        await p.complete(task, end)
        await p.history(started.workflow_id, started.run_id)
        await p.describe(started.workflow_id)
    await _delete(p)


@scenario
async def paused_and_unpaused(p: Puppet) -> None:
    await _create(p)
    await _patch(p, pause="because")
    await _until(p, lambda answer: answer.schedule.state.paused)
    await _patch(p, unpause="enough")
    await _until(p, lambda answer: not answer.schedule.state.paused)
    await p.attempt("PatchSchedule", schedule_id=p.id("s"), patch={})
    await _delete(p)


@scenario
async def updated(p: Puppet) -> None:
    await _create(p, search_attributes={"indexed_fields": {"ParityInt": attribute("3", "Int")}})
    fields = _fields(p, schedule={"spec": {"cron_string": ["0 0 1 1 * 2077"]}, "state": {"notes": "new"}})
    del fields["request_id"]
    await p.call("UpdateSchedule", **fields)
    token = (await _until(p, lambda answer: answer.schedule.state.notes == "new")).conflict_token
    fields["schedule"]["state"]["notes"] = "newer"
    attributes = {"indexed_fields": {"ParityKeyword": attribute('"k"')}}
    await p.call("UpdateSchedule", conflict_token=token, search_attributes=attributes, **fields)
    await _until(p, lambda answer: answer.schedule.state.notes == "newer")
    await _delete(p)


async def _overlapping(p: Puppet, policy: str, *, actions: int, skipped: int, buffered: int) -> Any:
    """Backfill four times of a schedule whose first run does not end."""
    await _create(
        p, schedule={"spec": {"cron_string": ["0 * * * *"], "end_time": instant("2026-01-01")},
                     "policies": {"overlap_policy": f"{PREFIX}{policy}"}},
    )  # fmt: skip
    await _patch(p, backfill_request=_backfill("2025-01-01T00:00:00", "2025-01-01T03:30:00"))

    def holds(answer: Any) -> bool:
        info = answer.info
        return (info.action_count, info.overlap_skipped, info.buffer_size) == (actions, skipped, buffered)

    return await _until(p, holds)


@scenario
async def overlaps_skipped(p: Puppet) -> None:
    await _overlapping(p, "SKIP", actions=1, skipped=3, buffered=0)
    await p.step(complete_workflow("x"))
    await _delete(p)


@scenario
async def one_overlap_buffered(p: Puppet) -> None:
    await _overlapping(p, "BUFFER_ONE", actions=1, skipped=2, buffered=1)
    await p.step(complete_workflow("x"))
    await _until(p, lambda answer: answer.info.action_count == 2)
    await p.step(complete_workflow("y"))
    await _delete(p)


@scenario
async def all_overlaps_buffered(p: Puppet) -> None:
    await _overlapping(p, "BUFFER_ALL", actions=1, skipped=0, buffered=3)
    for number in (2, 3, 4):
        await p.step(complete_workflow(f"r{number}"))
        await _until(p, lambda answer, n=number: answer.info.action_count == n)  # type: ignore[misc]
    await p.step(complete_workflow("last"))
    await _delete(p)


@scenario
async def all_overlaps_allowed(p: Puppet) -> None:
    answer = await _overlapping(p, "ALLOW_ALL", actions=4, skipped=0, buffered=0)
    for action in answer.info.recent_actions:
        await p.terminate(action.start_workflow_result.workflow_id)
    await _delete(p)


@scenario
async def the_other_terminated(p: Puppet) -> None:
    await _create(p, schedule={"policies": {"overlap_policy": f"{PREFIX}TERMINATE_OTHER"}})
    for number in (1, 2):
        await _patch(p, trigger_immediately={"scheduled_time": instant(f"2026-01-0{number}T03:04:05")})
        await _until(p, lambda answer, n=number: answer.info.action_count == n)  # type: ignore[misc]
    await p.closed(p.id("wf-2026-01-01T03:04:05Z"))
    await p.terminate(p.id("wf-2026-01-02T03:04:05Z"))
    await _delete(p)


@scenario
async def the_other_cancelled(p: Puppet) -> None:
    await _create(p, schedule={"policies": {"overlap_policy": f"{PREFIX}CANCEL_OTHER"}})
    await _patch(p, trigger_immediately={"scheduled_time": instant("2026-01-01T03:04:05")})
    await _until(p, lambda answer: answer.info.action_count == 1)
    await _patch(p, trigger_immediately={"scheduled_time": instant("2026-01-02T03:04:05")})
    await p.has_event("workflow_execution_cancel_requested", p.id("wf-2026-01-01T03:04:05Z"))
    await _until(p, lambda answer: answer.info.buffer_size == 1)
    await p.step(complete_workflow("gave way"))
    await p.history(p.id("wf-2026-01-01T03:04:05Z"))
    await _until(p, lambda answer: answer.info.action_count == 2)
    await p.terminate(p.id("wf-2026-01-02T03:04:05Z"))
    await _delete(p)


@scenario
async def paused_by_a_failure(p: Puppet) -> None:
    await _create(p, schedule={"policies": {"pause_on_failure": True, "overlap_policy": f"{PREFIX}BUFFER_ALL"}})
    await _patch(p, trigger_immediately={"scheduled_time": instant("2026-01-01T03:04:05")})
    await _until(p, lambda answer: answer.info.action_count == 1)
    await _patch(p, trigger_immediately={"scheduled_time": instant("2026-01-02T03:04:05")})
    await _until(p, lambda answer: answer.info.buffer_size == 1)
    await p.step(fail_workflow("broken"))
    await _until(p, lambda answer: answer.info.action_count == 2)
    await p.step(complete_workflow("x"))
    await _delete(p)


@scenario
async def created_with_a_patch(p: Puppet) -> None:
    await _create(
        p, initial_patch={"trigger_immediately": {"scheduled_time": instant("2026-01-01T03:04:05")}, "pause": "p"}
    )
    await _until(p, lambda answer: answer.info.action_count == 1)
    await p.step(complete_workflow("x"))
    await _delete(p)


@scenario
async def listed(p: Puppet) -> None:
    for number in (1, 2, 3):
        await _create(
            p, f"s{number}",
            schedule={"state": {"paused": number == 2, "notes": f"n{number}"},
                      "spec": {"cron_string": ["0 0 1 1 * 2090"], "interval": [{"interval": seconds(1e9)}]}},
            memo={"fields": {"m": payload(f"m{number}")}},
            search_attributes={"indexed_fields": {"ParityInt": attribute(str(number), "Int"),
                                                  "ParityKeyword": attribute(f'"{p.prefix}"')}},
        )  # fmt: skip
    mine = f"ParityKeyword = '{p.prefix}'"
    for _ in range(6000):
        answer = await p.call("CountSchedules", record=False, query=f"{mine} AND TemporalSchedulePaused = true")
        others = await p.call("CountSchedules", record=False, query=f"{mine} AND TemporalSchedulePaused = false")
        everything = await p.call("CountSchedules", record=False, query=mine)
        if (answer.count, others.count, everything.count) == (1, 2, 3):
            break
        await asyncio.sleep(0.05)
    for number in (1, 2, 3):
        await p.call("ListSchedules", query=f"{mine} AND ParityInt = {number}")
    for query in (
        mine,
        f"{mine} AND TemporalSchedulePaused = true",
        f"{mine} AND TemporalSchedulePaused = false",
        f"{mine} AND ScheduleId = '{p.id('s2')}'",
        f"ScheduleId IN ('{p.id('s1')}', '{p.id('s3')}')",
        f"{mine} AND ScheduleId STARTS_WITH '{p.id('s')}'",
        f"{mine} AND NOT ParityInt = 2",
        f"{mine} AND (ParityInt = 1 OR ParityInt = 3)",
        f"{mine} AND TemporalScheduledById = 'x'",
        f"{mine} AND TemporalNamespaceDivision = 'x'",
        f"{mine} AND Nobody = 1",
        f"{mine} AND",
    ):
        answer = await p.attempt("ListSchedules", record=False, query=query)
        if answer is None:
            await p.attempt("ListSchedules", query=query)
            await p.attempt("CountSchedules", query=query)
        else:
            p.note(query, sorted(each.schedule_id for each in answer.schedules))
            await p.call("CountSchedules", query=query)
    first = await p.call("ListSchedules", record=False, query=mine, maximum_page_size=2)
    second = await p.call(
        "ListSchedules", record=False, query=mine, maximum_page_size=2, next_page_token=first.next_page_token
    )
    p.note("pages", [len(first.schedules), len(second.schedules)])
    p.note(
        "hidden from lists of workflows", (await p.call("ListWorkflowExecutions", record=False, query=mine)).ByteSize()
    )
    for number in (1, 2, 3):
        await _delete(p, f"s{number}")


@scenario
async def filters_of_lists(p: Puppet) -> None:
    """What a schedule does not have can't be asked for."""
    for query in (
        "ExecutionDuration > '1s'", "WorkflowId = 'x'", "WorkflowType = 'x'", "RunId = 'x'", "CloseTime IS NULL",
        "StartTime > '2020-01-01T00:00:00Z'", "ExecutionStatus = 'Running'", "TaskQueue = 'x'", "HistoryLength > 1",
        "StateTransitionCount > 1", "RootWorkflowId = 'x'", "BuildIds = 'x'", "TemporalReportedProblems = 'x'",
        f"ScheduleId = '{p.id('x')}' AND HistorySizeBytes = 1", "NoAttribute = 'x'",
    ):  # fmt: skip
        await p.refused("ListSchedules", query=query)
    for query in (
        f"ScheduleId = '{p.id('x')}'", f"ScheduleId = '{p.id('x')}' AND ScheduleRunningWorkflowCount > 0",
        f"ScheduleId STARTS_WITH '{p.id('x')}' AND ScheduleNextActionTime > '2020-01-01T00:00:00Z'",
        f"TemporalSchedulePaused = true AND ParityKeyword = '{p.id('x')}'",
    ):  # fmt: skip
        await p.call("ListSchedules", query=query)
