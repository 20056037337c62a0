"""Limits on what one run may hold. Sizes over their limits end the workflow; full lists fail the workflow task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.common.messages.failures import FAILURE_EXCEEDS_LIMIT, server_failure, truncate
from whistlestop.history.core.commands.errors import BadCommand
from whistlestop.history.core.payload_maps import merge_payloads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from temporalio.api.failure.v1 import message_pb2 as failure_pb

    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.core.workflow_task.causes import Cause


def check_blob(run: Run, cause: Cause, size: int, message: str) -> None:
    """Check the size of a command's payloads; `message` says what is too large. Raise BadCommand."""
    if size > run.limits.blob_size_error:
        raise BadCommand(cause, message, terminate=True)
    if size > run.limits.blob_size_warn:
        _warn(run, message, size)


def check_memo(run: Run, cause: Cause, memo: common_pb.Memo, message: str) -> None:
    """Check the size of a whole memo. Raise BadCommand."""
    size = memo.ByteSize()
    if size > run.limits.memo_size_error:
        raise BadCommand(cause, message, terminate=True)
    if size > run.limits.memo_size_warn:
        _warn(run, message, size)


def _warn(run: Run, message: str, size: int) -> None:
    what = message.removesuffix(".").removesuffix(" exceeds size limit")
    run.warn(f"{what}: {size} bytes are over the warning limit")


def check_search_attributes(run: Run, cause: Cause, attributes: common_pb.SearchAttributes) -> None:
    """Check the sizes of each value and of all together. Raise BadCommand."""
    limits = run.limits
    for name, payload in attributes.indexed_fields.items():
        if len(payload.data) > limits.search_attribute_value_size:
            raise BadCommand(
                cause,
                f"search attribute {name} value size {len(payload.data)} "
                f"exceeds size limit {limits.search_attribute_value_size}",
                terminate=True,
            )
    total = attributes.ByteSize()
    if total > limits.search_attributes_total_size:
        raise BadCommand(
            cause,
            f"total size of search attributes {total} exceeds size limit {limits.search_attributes_total_size}",
            terminate=True,
        )


def merged_search_attributes(run: Run, changes: common_pb.SearchAttributes) -> common_pb.SearchAttributes:
    """Return the run's search attributes as they would be after the changes."""
    merged = common_pb.SearchAttributes()
    for name, payload in run.state.search_attributes.items():
        merged.indexed_fields[name].CopyFrom(payload)
    merge_payloads(merged.indexed_fields, changes.indexed_fields)
    return merged


def merged_memo(run: Run, changes: common_pb.Memo) -> common_pb.Memo:
    """Return the run's memo as it would be after the changes."""
    merged = common_pb.Memo()
    for name, payload in run.state.memo.items():
        merged.fields[name].CopyFrom(payload)
    merge_payloads(merged.fields, changes.fields)
    return merged


def payload_map_size(fields: Mapping[str, common_pb.Payload]) -> int:
    """Return the size of a map of payloads: keys and data, in bytes."""
    return sum(len(key.encode()) + len(payload.data) for key, payload in fields.items())


def payloads_map_size(fields: Mapping[str, common_pb.Payloads]) -> int:
    """Return the size of a map of lists of payloads: keys and whole payloads, in bytes."""
    return sum(len(key.encode()) + payloads.ByteSize() for key, payloads in fields.items())


# ---- limits on pending items -----------------------------------------------------------------------------------------


def _check_count(count: int, limit: int, cause: Cause, what: str) -> None:
    if 0 < limit <= count:
        raise BadCommand(cause, f"the number of {what}, {count}, has reached the per-workflow limit of {limit}")


def check_pending_activities(run: Run) -> None:
    """Raise BadCommand if no further activity may be scheduled."""
    _check_count(
        len(run.state.activities),
        run.limits.pending_activities,
        fc.WORKFLOW_TASK_FAILED_CAUSE_PENDING_ACTIVITIES_LIMIT_EXCEEDED,
        "pending activities",
    )


def check_pending_children(run: Run) -> None:
    """Raise BadCommand if no further child may be started."""
    _check_count(
        len(run.state.children),
        run.limits.pending_children,
        fc.WORKFLOW_TASK_FAILED_CAUSE_PENDING_CHILD_WORKFLOWS_LIMIT_EXCEEDED,
        "pending child workflow executions",
    )


def check_pending_signals(run: Run) -> None:
    """Raise BadCommand if no further external workflow may be signalled."""
    _check_count(
        len(run.state.external_signals),
        run.limits.pending_signals,
        fc.WORKFLOW_TASK_FAILED_CAUSE_PENDING_SIGNALS_LIMIT_EXCEEDED,
        "pending signals to external workflows",
    )


def check_pending_cancels(run: Run) -> None:
    """Raise BadCommand if no further cancellation of an external workflow may be requested."""
    _check_count(
        len(run.state.external_cancels),
        run.limits.pending_cancels,
        fc.WORKFLOW_TASK_FAILED_CAUSE_PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED,
        "pending requests to cancel external workflows",
    )


# ---- failures that are too long --------------------------------------------------------------------------------------


def kept_failure(run: Run, failure: failure_pb.Failure) -> failure_pb.Failure:
    """Return the failure as a pending activity keeps it, cut to the limit.

    The limit is in bytes; a smaller failure is returned as it is.
    """
    limits, size = run.limits, failure.ByteSize()
    if size > limits.activity_failure_size_warn:
        run.warn(f"the failure of an activity has {size} bytes; {limits.activity_failure_size_error} are kept of it")
    if size <= limits.activity_failure_size_error:
        return failure
    cut = truncate(failure, limits.activity_failure_size_error)
    return server_failure(FAILURE_EXCEEDS_LIMIT, non_retryable=False, cause=cut)
