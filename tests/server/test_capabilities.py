"""Every capability and limit that is told of: what is told is so, field by field.

A field that the protobuf messages have and these tables lack fails the first test: list it with what it promises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from temporalio.api.namespace.v1 import message_pb2 as namespace_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.parity import servers
from tests.parity.puppet import Puppet
from tests.patience import PATIENCE_S
from tests.server import capability_uses as uses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Use = Callable[[Puppet], Awaitable[None]]

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@dataclass(frozen=True)
class Told:
    """What ours tells of a capability as it is installed, a use of it (or of its absence), and what Temporal 1.32 tells."""

    value: bool
    use: Use
    real: bool
    setting: str = ""
    """The key that turns it into its contrary, "" where there is none."""
    contrary: Use | None = None


SYSTEM = {
    "signal_and_query_header": Told(True, uses.header_of_a_signal_and_a_query, True),
    "internal_error_differentiation": Told(True, uses.errors_by_whose_fault_they_are, True),
    "activity_failure_include_heartbeat": Told(True, uses.heartbeat_in_a_failure, True),
    "supports_schedules": Told(True, uses.schedules, True),
    "encoded_failure_attributes": Told(True, uses.encoded_failures, True),
    "build_id_based_versioning": Told(True, uses.versions_by_build_id, True),
    "upsert_memo": Told(True, uses.memo_is_changed, True),
    "eager_workflow_start": Told(True, uses.eager_start, True),
    "sdk_metadata": Told(True, uses.metadata_of_the_sdk, True),
    "count_group_by_execution_status": Told(True, uses.counts_by_status, True),
    "nexus": Told(True, uses.nexus_operation, True),
    "server_scaled_deployments": Told(True, uses.server_starts_workers, True),
    "server_scaled_provider_cloud_run": Told(False, uses.no_cloud_run, False),
}

NAMESPACE = {
    "eager_workflow_start": Told(True, uses.eager_start, True, "system.enableEagerWorkflowStart", uses.no_eager_start),
    "sync_update": Told(
        True, uses.update_waited_for_to_its_end, True, "frontend.enableUpdateWorkflowExecution", uses.no_updates
    ),
    "async_update": Told(
        True, uses.update_waited_for_until_accepted, True, "frontend.enableUpdateWorkflowExecutionAsyncAccepted",
        uses.no_waiting_until_accepted,
    ),
    "worker_heartbeats": Told(
        True, uses.workers_are_known, True, "frontend.WorkerHeartbeatsEnabled", uses.no_workers_are_known
    ),
    "reported_problems_search_attribute": Told(
        True, uses.problems_are_found, True,
        "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=0", uses.no_problems_are_found,
    ),
    "workflow_pause": Told(True, uses.workflow_is_paused, False, "frontend.WorkflowPauseEnabled", uses.no_pause),
    "standalone_activities": Told(
        True, uses.activity_without_a_workflow, True, "activity.enableStandalone", uses.no_activity_without_a_workflow
    ),
    "worker_poll_complete_on_shutdown": Told(
        True, uses.polls_end_with_their_worker, False, "frontend.enableCancelWorkerPollsOnShutdown",
        uses.polls_outlive_their_worker,
    ),
    "poller_autoscaling": Told(True, uses.pollers_are_advised, True),
    "worker_commands": Told(
        False, uses.worker_is_told_nothing, False, "frontend.WorkerCommandsEnabled", uses.worker_is_told_to_cancel
    ),
    "standalone_nexus_operation": Told(
        True, uses.nexus_operation_without_a_workflow, False, "nexusoperation.enableStandalone",
        uses.no_nexus_operation_without_a_workflow,
    ),
    "workflow_update_callbacks": Told(
        True, uses.callback_of_an_update, False, "history.enableUpdateCallbacks", uses.no_callback_of_an_update
    ),
    "poller_autoscaling_auto_enroll": Told(
        False, uses.pollers_choose_themselves, False, "frontend.pollerAutoscalingAutoEnroll", uses.pollers_are_advised
    ),
    "workflow_task_completion_pagination": Told(
        False, uses.no_pages_of_a_completion, False, "history.enableWorkflowTaskCompletionPagination",
        uses.pages_of_a_completion,
    ),
    "standalone_activity_start_delay": Told(
        True, uses.activity_is_delayed, True, "activity.startDelayEnabled", uses.no_delay
    ),
    "standalone_activity_batch_operations": Told(
        True, uses.batch_over_activities, True, "frontend.enableBatchOperationsForStandaloneActivities",
        uses.no_batch_of_activities,
    ),
    "standalone_activity_operator_commands": Told(
        True, uses.activity_is_paused, True, "history.enableStandaloneActivityOperatorCommands",
        uses.no_commands_to_activities,
    ),
}  # fmt: skip

LIMITS: dict[str, tuple[int, Use]] = {
    "blob_size_limit_error": (2 << 20, uses.payloads_up_to_the_limit),
    "memo_size_limit_error": (2 << 20, uses.memos_up_to_the_limit),
    # Of the pages of one completion, which are refused unless they are switched on: see the capability.
    "workflow_task_completion_size_limit_error": (40 << 20, uses.no_pages_of_a_completion),
}

TABLES: dict[Any, dict[str, Any]] = {
    service_pb.GetSystemInfoResponse.Capabilities: SYSTEM,
    namespace_pb.NamespaceInfo.Capabilities: NAMESPACE,
    namespace_pb.NamespaceInfo.Limits: LIMITS,
}
SWITCHED = {name: told for name, told in NAMESPACE.items() if told.setting}
ALONE = ("sync_update", "standalone_activities")
"""Without these, others are nothing to speak of: they are switched off on a server of their own."""


def _flag(told: Told) -> str:
    return told.setting if "=" in told.setting else f"{told.setting}={str(not told.value).lower()}"


OTHERWISE = tuple(_flag(told) for name, told in SWITCHED.items() if name not in ALONE)
WITHOUT_MUCH = (*(_flag(SWITCHED[name]) for name in ALONE), "frontend.enableSchedules=false")
COMMANDS = "system.enableCancelActivityWorkerCommand=true"


def _serving(*settings: str) -> Iterator[servers.Server]:
    more = ('callback.allowedAddresses=[{"Pattern": "*", "AllowInsecure": true}]', *settings)
    with servers.in_a_loop_of_its_own(servers.our_server("memory", more, plain=True)) as address:
        yield address


@pytest.fixture(scope="module")
def installed() -> Iterator[servers.Server]:
    yield from _serving()


@pytest.fixture(scope="module")
def otherwise() -> Iterator[servers.Server]:
    yield from _serving(*OTHERWISE, COMMANDS)


@pytest.fixture(scope="module")
def without_much() -> Iterator[servers.Server]:
    yield from _serving(*WITHOUT_MUCH)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> servers.Server:
    address: servers.Server = request.getfixturevalue(getattr(request, "param", "installed"))
    return address


async def _told(p: Puppet) -> tuple[dict[str, bool], dict[str, bool], dict[str, int]]:
    info = (await p.call("DescribeNamespace")).namespace_info
    system = (await p.call("GetSystemInfo")).capabilities
    return _fields(system), _fields(info.capabilities), _fields(info.limits)


def _fields(message: Any) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.DESCRIPTOR.full_name.removeprefix("temporal.api."))
def test_every_field_is_listed(kind: Any) -> None:
    assert {field.name for field in kind.DESCRIPTOR.fields} == set(TABLES[kind])


async def test_default_capabilities(p: Puppet) -> None:
    system, namespace, limits = await _told(p)
    assert system == {name: told.value for name, told in SYSTEM.items()}
    assert namespace == {name: told.value for name, told in NAMESPACE.items()}
    assert limits == {name: limit for name, (limit, _) in LIMITS.items()}
    assert (await p.call("DescribeNamespace")).namespace_info.supports_schedules


@pytest.mark.parametrize("name", SYSTEM)
async def test_system_capabilities_have_their_effect(p: Puppet, name: str) -> None:
    await SYSTEM[name].use(p)


@pytest.mark.parametrize("name", NAMESPACE)
async def test_namespace_capabilities_have_their_effect(p: Puppet, name: str) -> None:
    await NAMESPACE[name].use(p)


@pytest.mark.parametrize("name", LIMITS)
async def test_limits_have_their_effect(p: Puppet, name: str) -> None:
    await LIMITS[name][1](p)


@pytest.mark.parametrize("server", ["otherwise"], indirect=True)
async def test_configured_capabilities(p: Puppet) -> None:
    _, namespace, _ = await _told(p)
    assert namespace == {
        name: told.value != bool(told.setting and name not in ALONE) for name, told in NAMESPACE.items()
    }


@pytest.mark.parametrize("server", ["otherwise"], indirect=True)
@pytest.mark.parametrize("name", [name for name in SWITCHED if name not in ALONE])
async def test_configured_namespace_capabilities_have_their_effect(p: Puppet, name: str) -> None:
    contrary = SWITCHED[name].contrary
    assert contrary is not None
    await contrary(p)


@pytest.mark.parametrize("server", ["without_much"], indirect=True)
async def test_capabilities_without_the_larger_parts(p: Puppet) -> None:
    _, namespace, _ = await _told(p)
    assert {name for name, value in namespace.items() if value != NAMESPACE[name].value} == {
        "sync_update", "standalone_activities", "standalone_activity_start_delay",
        "standalone_activity_batch_operations", "standalone_activity_operator_commands",
    }  # fmt: skip
    assert not (await p.call("DescribeNamespace")).namespace_info.supports_schedules


@pytest.mark.parametrize("server", ["without_much"], indirect=True)
@pytest.mark.parametrize("use", [uses.no_updates, uses.no_activity_without_a_workflow, uses.no_schedules])
async def test_capabilities_without_the_larger_parts_have_their_effect(p: Puppet, use: Use) -> None:
    await use(p)


@pytest.mark.parity
async def test_capabilities_of_the_real_server() -> None:
    """Where ours differs, it is because more is on."""
    async with servers.real_server(plain=True) as address, grpc.aio.insecure_channel(address) as channel:
        system, namespace, limits = await _told(Puppet(channel))
    assert system == {name: told.real for name, told in SYSTEM.items()}
    assert namespace == {name: told.real for name, told in NAMESPACE.items()}
    assert limits == {name: limit for name, (limit, _) in LIMITS.items()}
    assert {name for name, told in NAMESPACE.items() if told.real != told.value} == {
        "workflow_pause", "worker_poll_complete_on_shutdown", "standalone_nexus_operation", "workflow_update_callbacks",
    }  # fmt: skip
