"""The wall clock may be set at any moment: every place that reads it stands here, with its reason.

Whatever waits, ages or paces itself within a process goes by `Clock.steady_ns` (or `time.monotonic`), and needs no entry.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for part in ("services", "storage")
    for path in sorted((ROOT / part).rglob("*.py"))
    if not path.name.endswith("_pb2.py")
]

STAMP = "the time of an event, or of a row, that is stored"
SHOWN = "what people or callers are shown"
DUE = "what is due at a stored time of day"
SHARED = "the age of a row that any process may have written"
ELSEWHERE = "what another system's clock is compared with, or told"
BOTH = "old as soon as either clock says so"

ALLOWED: dict[str, dict[str, str]] = {
    "bridge/auth.py": {"SigV4.sign": ELSEWHERE, "_ahead": ELSEWHERE},
    "bridge/sqs.py": {"SqsNotificationQueue._sweep": ELSEWHERE},
    "net/aws.py": {"_now": ELSEWHERE},
    "common/clock.py": {
        "import time_ns": "the clock itself",
        "FunctionClock.__init__": "how long an instance was frozen",
        "FunctionClock.resume": "how long an instance was frozen",
        "SkippingClock.now_ns": "the clock itself",
        "SkippingClock.skip_to": "the clock itself",
        "sleep_until": DUE,
        "wait_toward": DUE,
    },
    "net/http/blocking.py": {"Connections.post": BOTH, "Connections._kept": BOTH},
    "functions/traces.py": {"Traces.subsegment": SHOWN},
    "common/ids.py": {"RandomIds.uuid": STAMP},
    "frontend/api/deployments/deployment_compute.py": {"create_version": STAMP, "update_compute_config": STAMP},
    "frontend/api/deployments/deployment_routing.py": {"set_current_version": STAMP, "set_ramping_version": STAMP},
    "frontend/api/deployments/deployments.py": {
        "_read": SHOWN, "set_manager.change": STAMP, "delete_version.change": STAMP, "create_deployment": STAMP,
    },
    "frontend/api/namespaces.py": {"delete_namespace": STAMP, "_delete_some": DUE, "_update_config": STAMP},
    "frontend/api/nexus_endpoints.py": {"create_nexus_endpoint": STAMP, "update_nexus_endpoint": STAMP},
    "frontend/api/versioning/task_reachability.py": {"_of_queue": SHARED, "_by_rules": SHARED},
    "frontend/api/versioning/version_sets.py": {"update_compatibility": STAMP},
    "frontend/api/versioning/versioning_rules.py": {"update_rules": STAMP},
    "frontend/api/workflow/workflow_rules.py": {"create_workflow_rule": STAMP},
    "frontend/auth/access.py": {
        "AccessControl._peek": "keys and tokens expire at a time of day",
        "AccessControl._known": "keys and tokens expire at a time of day",
    },
    "frontend/auth/tokens.py": {"TokenVerifier._expires_ns": "keys and tokens expire at a time of day"},
    "frontend/batch/operations.py": {"Operations._point": DUE},
    "frontend/batch/worker.py": {"note_job": STAMP, "BatchWorker._age_ns": SHARED},
    "frontend/endpoints/nexus_requests.py": {"serve": STAMP},
    "history/api/activity/executions.py": {"describe_activity_execution": SHOWN},
    "history/api/deployments.py": {"refresh_drainage": STAMP},
    "history/api/fire_timers.py": {"fire_timers": DUE},
    "history/api/executions.py": {"describe_workflow_execution": SHOWN},
    "history/api/nexus/executions.py": {"describe_nexus_operation_execution": SHOWN},
    "history/api/nexus/requests.py": {"_dispatch": STAMP, "record_nexus_request_started": ELSEWHERE},
    "history/api/queries.py": {"_starts_after": DUE, "_dispatch": STAMP},
    "history/api/reset.py": {"_begin": STAMP},
    "history/api/start.py": {"_check_interval": ELSEWHERE, "new_run": STAMP},
    "history/engine/waiting_callers.py": {"WaitingCallers.waiting": STAMP, "WaitingCallers.since_ns": SHARED, "WaitingCallers.left_ns": SHARED},
    "history/timers/aws_wake_ups.py": {"AwsWakeUps.arm": DUE},
    "history/nexus/circuit_breakers.py": {"CircuitBreakers.admit": STAMP},
    "history/transfers/deliveries.py": {"_new_child": STAMP},
    "history/engine/engine.py": {"Engine.run_of": STAMP, "Engine._route": STAMP},
    "history/function_instance.py": {"HistoryInstance._fire_timers": DUE, "HistoryInstance._count_lateness": SHOWN},
    "history/engine/pinning.py": {"reactivate.change": STAMP},
    "history/transfers/push.py": {"Pushes.written": STAMP, "Pushes.check": STAMP, "Pushes._arm": DUE},
    "history/schedule/driver.py": {"fire": DUE},
    "history/schedule/rpcs.py": {"create_schedule": STAMP},
    "history/timers/processor.py": {
        "TimerProcessor.notify": DUE, "TimerProcessor._refresh": DUE, "TimerProcessor._run_until_horizon": DUE,
        "TimerProcessor.fire_page": DUE, "TimerProcessor.fire": STAMP, "TimerProcessor._fire_retention": DUE,
    },
    "history/transfers/processor.py": {
        "TransferProcessor.sweep_once": DUE, "TransferProcessor._is_late": DUE, "TransferProcessor._postpone": STAMP,
    },
    "history/transfers/worker_commands.py": {"deliver": SHARED},
    "matching/task_queue/describe.py": {"Descriptions._pollers": SHOWN, "Descriptions._stats": SHOWN},
    "matching/timer_scan.py": {"StoredTimerScan.fire_timers": DUE},
    "matching/pollers.py": {
        "PollerRows.record": STAMP, "PollerRows.notification_queue_record": STAMP, "PollerRows.read": SHARED,
        "PollerRows.read_recent": SHARED, "PollerRows.remove": STAMP,
    },
    "matching/polls.py": {
        "Polls._serve": "the age of tasks, by their stamps", "Polls._shared_token": SHARED, "Polls._token": SHARED,
    },
    "matching/push/aws_lambda.py": {"AwsLambda._lambda": BOTH},
    "matching/push/pusher.py": {
        "Pusher.check": STAMP, "Pusher._push_group": SHARED, "Pusher._start": STAMP, "Pusher._push_tasks": DUE,
        "Pusher._run_tasks": STAMP, "Pusher._alive": SHARED, "Pusher._change": STAMP,
    },
    "matching/push/webhook.py": {"Webhook.send": ELSEWHERE},
    "matching/service.py": {
        "Matching._update_config": STAMP, "Matching._is_polled": SHARED, "Matching._record_heartbeats": STAMP,
        "Matching._known_workers": SHARED,
    },
    "matching/versions.py": {"Versions._register": STAMP},
    "server/cli/cluster.py": {"members.work": SHARED},
    "server/cli/key.py": {"create": STAMP},
    "deploy/cloud.py": {"Cloud.change": STAMP},
    "net/http/state.py": {"ServerState.default_headers": SHOWN},
    "server/logs.py": {"_instant": SHOWN},
    "server/membership.py": {"Membership.join": STAMP, "Membership.leave": STAMP, "Membership._heartbeat": STAMP},
    "server/time_skipping.py": dict.fromkeys(
        (
            "TimeSkipper.sleep", "TimeSkipper._run", "TimeSkipper._skip", "TimeSkipper._end_sleeps", "TimeSkipper._after",
            "TimeSkipper._get_current_time",
        ),
        "TestService tells the time, and sets it forward to a time of day",
    ),
    "storage/deployments.py": {"Deployments._change": STAMP},
    "storage/membership_heartbeat.py": {"MembershipHeartbeat.__init__": STAMP, "MembershipHeartbeat.renew": STAMP},
    "storage/set_aside.py": {"SetAside.note": STAMP},
}  # fmt: skip
"""By file, below its `whistlestop` folder, and by function."""

_TIME = frozenset({"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"})
_DATE = frozenset({"now", "utcnow", "today"})


def wall_clock_uses(source: str) -> set[str]:
    """The functions of a module that read the wall clock, by their qualified names."""
    found: set[str] = set()

    def walk(node: ast.AST, place: tuple[str, ...]) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            place = (*place, node.name)
        if _reads_wall(node):
            found.add(".".join(place))
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found.update(f"import {each.name}" for each in node.names if each.name in _TIME)
        for child in ast.iter_child_nodes(node):
            walk(child, place)

    walk(ast.parse(source), ())
    return found


def _reads_wall(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "now_ns":
        return True
    if not isinstance(node, ast.Attribute):
        return False
    owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
    return (
        (node.attr == "now_ns" and owner.strip("_") in ("clock", "wall"))
        or (node.attr in _TIME and owner == "time")
        or (node.attr in _DATE and owner in ("datetime", "date"))
    )


def name_of(path: Path) -> str:
    parts = path.parts
    return "/".join(parts[parts.index("whistlestop") + 1 :])


def test_the_wall_clock_is_read_where_that_has_a_reason_and_nowhere_else() -> None:
    found = {name_of(path): wall_clock_uses(path.read_text("utf-8")) for path in SOURCES}
    allowed = {name: set(places) for name, places in ALLOWED.items()}
    new = {name: sorted(places - allowed.get(name, set())) for name, places in found.items()}
    assert {name: places for name, places in new.items() if places} == {}, (
        "a deadline, wait, back-off or age goes by Clock.steady_ns(); what is stored or shown gets an entry in ALLOWED"
    )
    gone = {name: sorted(places - found.get(name, set())) for name, places in allowed.items()}
    assert {name: places for name, places in gone.items() if places} == {}, "no longer there: take the entry out"


def test_reads_of_the_wall_clock_are_found() -> None:
    source = """
import datetime as dt, time
from time import time_ns

class Cache:
    def fresh(self): return self._clock.now_ns() < self.until_ns
    def passed(self): return give(self.clock.now_ns)
    def old(self): return time.time() - self.since_s > 3
    def dated(self): return dt.datetime.now(dt.UTC)
    def steady(self): return self._clock.steady_ns() + time.monotonic() + run.now_ns
"""
    expected = {"Cache.fresh", "Cache.passed", "Cache.old", "Cache.dated", "import time_ns"}
    assert wall_clock_uses(source) == expected
