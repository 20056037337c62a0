"""The points to which a run may be reset when a worker's build turns out to be bad, and the builds that worked on it.

The first workflow task that a build completes adds a point. The build is then also added to the search attribute
`BuildIds` (and a binary checksum, the older way to name a build, to `BinaryChecksums`). Everything follows from
history.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from whistlestop.history.core.times import set_timestamp, timestamp_ns

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState

MOST_POINTS = 20
MOST_BYTES = 2048
UNVERSIONED = "unversioned"
BEHAVIOR = "TemporalWorkflowVersioningBehavior"


def note_completion(state: MutableState, event: history_pb.HistoryEvent) -> None:
    """Add a reset point for the build that completed a workflow task."""
    a = event.workflow_task_completed_event_attributes
    build_id = a.worker_version.build_id
    note_build(state, build_id, use_versioning=a.worker_version.use_versioning)
    build_id = a.deployment_version.build_id or build_id
    points = state.reset_points.points
    if any(p.binary_checksum == a.binary_checksum and p.build_id == build_id for p in points):
        return
    point = points.add(
        binary_checksum=a.binary_checksum,
        build_id=build_id,
        run_id=state.run_id,
        first_workflow_task_completed_id=event.event_id,
        resettable=not (state.children or state.external_cancels or state.external_signals),
    )
    set_timestamp(point.create_time, timestamp_ns(event.event_time))
    if len(points) > MOST_POINTS:
        del points[: len(points) - MOST_POINTS]
    if a.binary_checksum:
        checksums = [p.binary_checksum for p in points if p.binary_checksum]
        _set(state, "BinaryChecksums", list(dict.fromkeys(checksums)))


def note_build(state: MutableState, build_id: str, *, use_versioning: bool) -> None:
    """Add a build that worked on the run, or will, to `BuildIds` (empty: a worker without a build id)."""
    entry = f"{'versioned' if use_versioning else UNVERSIONED}:{build_id}" if build_id else UNVERSIONED
    # A versioning behavior, even from an override, takes precedence over "unversioned".
    is_versioned = use_versioning or BEHAVIOR in state.search_attributes
    has_some = "BuildIds" in state.search_attributes
    if not is_versioned and has_some and f'"{entry}"'.encode() in state.search_attributes["BuildIds"].data:
        return
    known = _get(state, "BuildIds")
    values = [] if is_versioned else [UNVERSIONED]
    if use_versioning and state.assigned_build_id and BEHAVIOR not in state.search_attributes:
        values = [f"assigned:{state.assigned_build_id}"]
    values += [value for value in known if value != UNVERSIONED and not value.startswith("assigned:")]
    if entry not in values and (build_id or not is_versioned):
        values.append(entry)
    while len(values) > 1 and len(json.dumps(values)) > MOST_BYTES:
        del values[1]
    if values:
        _set(state, "BuildIds", values)
    elif known:
        del state.search_attributes["BuildIds"]


def note_unversioned(state: MutableState) -> None:
    """Record in `BuildIds` that the run left its version, although no task was completed since."""
    builds = [build for build in _get(state, "BuildIds") if not build.startswith(("pinned:", "assigned:"))]
    _set(state, "BuildIds", [UNVERSIONED, *(build for build in builds if build != UNVERSIONED)])


def _get(state: MutableState, name: str) -> list[str]:
    if name not in state.search_attributes:
        return []
    values = json.loads(state.search_attributes[name].data)
    return [str(value) for value in values] if isinstance(values, list) else [str(values)]


def _set(state: MutableState, name: str, values: list[str]) -> None:
    payload = state.search_attributes[name]
    payload.metadata["encoding"] = b"json/plain"
    payload.metadata["type"] = b"KeywordList"
    payload.data = json.dumps(values, separators=(",", ":")).encode()
