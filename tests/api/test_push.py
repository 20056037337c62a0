"""Versions whose workers are started on demand, over a whole backend with a provider that only takes notes."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf import field_mask_pb2
from temporalio.api.compute.v1 import config_pb2 as compute_pb
from temporalio.api.enums.v1 import deployment_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.simulation.backend import NAMESPACE, Backend
from tests.simulation.faults import Weather
from tests.turns import at_once
from whistlestop.common.errors import Code, ServiceError
from whistlestop.matching.push.provider import ProviderError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from whistlestop.matching.push.provider import Work

Group: Any = compute_pb.ComputeConfigScalingGroup
VERSION = {"deployment_name": "d", "build_id": "1"}
OPTIONS = {"deployment_name": "d", "build_id": "1", "worker_versioning_mode": 2}


class Notes:
    """A provider that notes what it is asked for; `refuses` says why it does not do it."""

    backlog_per_worker = 10

    def __init__(self) -> None:
        self.started: list[int] = []
        self.validated: list[dict[str, Any]] = []
        self.refuses = ""
        self.dies = False
        self.first: Callable[[], Awaitable[object]] | None = None
        """What happens before a start is answered."""

    def check(self, details: Mapping[str, Any]) -> None:
        if "bad" in details:
            raise ProviderError("bad details")

    async def validate(self, details: Mapping[str, Any]) -> None:
        self.check(details)
        self.validated.append(dict(details))

    async def start(self, details: Mapping[str, Any], work: Work, count: int) -> int:
        if self.dies:
            raise asyncio.CancelledError
        if self.refuses:
            raise ProviderError(self.refuses)
        self.started.append(count)
        if self.first is not None:
            await self.first()
        return count


def group(details: Mapping[str, Any] | None = None, types: tuple[int, ...] = (), **scaler: Any) -> Any:
    made = Group(task_queue_types=types)
    made.provider.type = "aws-lambda"
    made.provider.details.metadata["encoding"] = b"json/plain"
    made.provider.details.data = json.dumps(details or {}).encode()
    if scaler:
        made.scaler.type = "no-sync"
        made.scaler.details.data = json.dumps(scaler).encode()
    return made


def update(made: Any, *paths: str) -> Any:
    mask = field_mask_pb2.FieldMask(paths=paths)
    return compute_pb.ComputeConfigScalingGroupUpdate(scaling_group=made, update_mask=mask)


class Site:
    """A backend with one deployment, and a worker that comes when it is told to."""

    def __init__(self, backend: Backend, notes: Notes) -> None:
        self.backend = backend
        self.notes = notes

    async def call(self, method: str, **fields: Any) -> Any:
        request = getattr(rr, f"{method}Request")(namespace=NAMESPACE, **fields)
        return await self.backend.call(method, request, getattr(rr, f"{method}Response"))

    async def refused(self, method: str, **fields: Any) -> tuple[Code, str]:
        with pytest.raises(ServiceError) as refused:
            await self.call(method, **fields)
        return refused.value.code, refused.value.message

    async def create(self, config: Mapping[str, Any] | None = None, request_id: str = "r", **fields: Any) -> None:
        given = {} if config is None else {"compute_config": {"scaling_groups": config}}
        await self.call(
            "CreateWorkerDeploymentVersion", deployment_version=VERSION, request_id=request_id, **given, **fields
        )

    async def change(self, request_id: str = "", removes: tuple[str, ...] = (), **groups: Any) -> None:
        await self.call(
            "UpdateWorkerDeploymentVersionComputeConfig", deployment_version=VERSION, request_id=request_id,
            compute_config_scaling_groups=groups, remove_compute_config_scaling_groups=removes, identity="me",
        )  # fmt: skip

    async def settle(self) -> None:
        for _ in range(300):
            await asyncio.sleep(0)

    async def poll(self, kind: str = "Workflow", worker: str = "w") -> Any:
        """The task that a worker of the version gets at once; None: it would wait, and goes away."""
        return await at_once(
            self.call(f"Poll{kind}TaskQueue", task_queue={"name": "q"}, identity=worker, deployment_options=OPTIONS)
        )

    async def work(self) -> None:
        """Take the one task that there is, and complete it."""
        task = await self.poll()
        await self.call("RespondWorkflowTaskCompleted", task_token=task.task_token, deployment_options=OPTIONS)

    async def leave(self, worker: str = "w") -> None:
        heartbeat = {"deployment_version": VERSION}
        await self.call("ShutdownWorker", task_queue="q", identity=worker, worker_heartbeat=heartbeat)

    async def start(self, *workflow_ids: str) -> None:
        for workflow_id in workflow_ids:
            await self.call(
                "StartWorkflowExecution", workflow_id=workflow_id, request_id=workflow_id, workflow_type={"name": "T"},
                task_queue={"name": "q"},
            )  # fmt: skip
        await self.settle()

    async def ready(self, **scaler: Any) -> None:
        """The version has a config, its queue is known and it is current; no worker is there."""
        await self.create({"default": group(**scaler)})
        await self.poll()
        await self.leave()
        await self.call("SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="1")
        await self.pass_time(60)
        self.notes.started.clear()

    async def pass_time(self, seconds: float) -> None:
        await self.backend.clock.advance(seconds)
        await self.settle()

    async def summary(self) -> Any:
        described = await self.call("DescribeWorkerDeployment", deployment_name="d")
        return described.worker_deployment_info.version_summaries[0]

    async def rows(self) -> tuple[int, int]:
        """Timer rows of versions, and outbox rows."""
        store, now_ns = self.backend.store, self.backend.clock.now_ns()
        timers = [row for row in await store.next_timers(0, 1 << 30, 0, 100) if row.kind == "push"]
        return len(timers), len(await store.scan_transfer_tasks(0, 1 << 30, now_ns, 100))


async def _site(processes: int) -> Site:
    weather = Weather()
    weather.clear()
    backend = Backend(random.Random(1), processes=processes, weather=weather, note=lambda _: None)
    notes = Notes()
    backend.providers = {"aws-lambda": notes}
    await backend.open()
    site = Site(backend, notes)
    await site.call("CreateWorkerDeployment", deployment_name="d", request_id="d")
    return site


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    made = await _site(1)
    yield made
    await made.backend.close()


@pytest_asyncio.fixture
async def two() -> AsyncIterator[Site]:
    made = await _site(2)
    yield made
    await made.backend.close()


# ---- the API ---------------------------------------------------------------------------------------------------------


async def test_a_version_is_created_once_by_its_request(site: Site) -> None:
    await site.create(identity="me")
    await site.create()
    info = (
        await site.call("DescribeWorkerDeploymentVersion", deployment_version=VERSION)
    ).worker_deployment_version_info
    assert (info.version, info.last_modifier_identity) == ("d.1", "me")
    assert info.status == enums.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED
    assert not info.HasField("compute_config")
    for request_id in ("", "other"):
        said = await site.refused("CreateWorkerDeploymentVersion", deployment_version=VERSION, request_id=request_id)
        assert said == (Code.ALREADY_EXISTS, 'Worker Deployment Version "d.1" already exists')


async def test_a_worker_that_polls_before_its_version_is_stored_is_no_other_s_version(site: Site) -> None:
    """A webhook may answer when the worker that it started is there."""
    site.notes.first = site.poll
    await site.create({"default": group()}, request_id="a")
    described = await site.call("DescribeWorkerDeploymentVersion", deployment_version=VERSION)
    info = described.worker_deployment_version_info
    assert list(info.compute_config.scaling_groups) == ["default"]
    assert [queue.name for queue in info.task_queue_infos] == ["q"]
    await site.create({"default": group()}, request_id="a")
    site.notes.first = None
    code, _ = await site.refused("CreateWorkerDeploymentVersion", deployment_version=VERSION, request_id="b")
    assert code is Code.ALREADY_EXISTS


async def test_a_version_needs_a_name_and_a_deployment(site: Site) -> None:
    create = "CreateWorkerDeploymentVersion"
    assert await site.refused(create, deployment_version={"deployment_name": "d"}) == (
        Code.INVALID_ARGUMENT,
        "build ID cannot be empty",
    )
    assert await site.refused(create, deployment_version={"build_id": "1"}) == (
        Code.INVALID_ARGUMENT,
        "deployment name cannot be empty",
    )
    assert await site.refused(create, deployment_version={"deployment_name": "x", "build_id": "1"}) == (
        Code.NOT_FOUND,
        "no Worker Deployment found with name 'x'; does your Worker Deployment have pollers?",
    )


async def test_a_config_is_validated_starts_a_worker_and_is_described(site: Site) -> None:
    await site.create({"default": group({"arn": "a"}, max_workers=3)})
    assert site.notes.validated == [{"arn": "a"}]
    assert site.notes.started == [1], "it registers the queues it polls"
    info = (
        await site.call("DescribeWorkerDeploymentVersion", deployment_version=VERSION)
    ).worker_deployment_version_info
    assert info.compute_config.scaling_groups["default"] == group({"arn": "a"}, max_workers=3)
    summary = await site.summary()
    assert summary.compute_config.scaling_groups["default"].provider_type == "aws-lambda"
    assert summary.compute_status.provider_validation.error_message == ""
    assert summary.compute_status.provider_validation.last_check_time.ToNanoseconds() == site.backend.clock.now_ns()
    listed = (await site.call("ListWorkerDeployments")).worker_deployments[0].latest_version_summary
    assert listed == summary


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({}, "spec must have at least one entry"),
        ({"default": Group()}, "entry default: invalid compute provider type ''"),
        ({"": group()}, "scaling groups without an ID are not supported"),
        ({"a": group(), "b": group()}, "entry b: only one scaling group can have no task types defined"),
        (
            {"a": group(types=(1,)), "b": group(types=(1, 2))},
            "entry b: task type Workflow appears in more than one entry",
        ),
        ({"a": group(types=(0,))}, "entry a: task type undefined not allowed in compute spec"),
        (
            {"a": Group(provider={"type": "k8s"})},
            "a: Could not instantiate compute provider with type 'k8s'",
        ),
        (
            {"a": Group(provider={"type": "aws-lambda"}, scaler={"type": "x"})},
            "entry a: invalid scaling algorithm type 'x'",
        ),
        (
            {"a": Group(provider={"type": "aws-lambda"}, scaler={"type": "rate-based"})},
            "a: Scaling Algorithm 'rate-based' is not compatible with compute provider 'aws-lambda'",
        ),
        ({"a": group({"bad": 1})}, "a: bad details"),
        ({"a": group(nonsense=1)}, 'a: unknown config key "nonsense" for no-sync scaling algorithm'),
    ],
)
async def test_a_config_that_can_t_be_right_is_refused_in_temporal_s_words(
    site: Site, groups: dict[str, Any], said: str
) -> None:
    fields = {"deployment_version": VERSION, "compute_config": {"scaling_groups": groups}}
    assert await site.refused("CreateWorkerDeploymentVersion", **fields) == (Code.INVALID_ARGUMENT, said)
    assert not (
        await site.call("DescribeWorkerDeployment", deployment_name="d")
    ).worker_deployment_info.version_summaries


async def test_a_target_that_can_t_be_started_keeps_the_version_from_being_made(site: Site) -> None:
    site.notes.refuses = "denied"
    fields = {"deployment_version": VERSION, "compute_config": {"scaling_groups": {"a": group()}}}
    assert await site.refused("CreateWorkerDeploymentVersion", **fields) == (Code.INVALID_ARGUMENT, "a: denied")


async def test_masks_say_what_an_update_changes(site: Site) -> None:
    await site.create({"default": group({"arn": "a"}, max_workers=3)})
    await site.change(default=update(group({"arn": "b"})))
    assert await _config(site) == {"default": group({"arn": "a"}, max_workers=3)}, "an empty mask changes nothing"
    await site.change(default=update(group({"arn": "b"}, (2,)), "provider.details", "task_queue_types", "scaler"))
    assert await _config(site) == {"default": group({"arn": "b"}, (2,))}
    await site.change(other=update(group({"arn": "c"}, (1,)), "ignored for a new group"))
    await site.change(removes=("default", "nobody"))
    assert await _config(site) == {"other": group({"arn": "c"}, (1,))}
    await site.change(removes=("other",))
    assert await _config(site) == {}
    assert not (await site.summary()).HasField("compute_config")


async def _config(site: Site) -> dict[str, Any]:
    described = await site.call("DescribeWorkerDeploymentVersion", deployment_version=VERSION)
    assert described.worker_deployment_version_info.last_modifier_identity in ("", "me")
    return dict(described.worker_deployment_version_info.compute_config.scaling_groups)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("provider.nope", 'unsupported field mask path: "provider.nope"'),
        ("scaler.type", "scaler.type set in field mask, but not provided"),
        ("scaler.details", "scaler.details set in field mask, but not provided"),
    ],
)
async def test_a_bad_mask_is_refused(site: Site, path: str, said: str) -> None:
    await site.create({"default": group()})
    fields = {"deployment_version": VERSION, "compute_config_scaling_groups": {"default": update(group(), path)}}
    for method in ("Update", "Validate"):
        refused = await site.refused(f"{method}WorkerDeploymentVersionComputeConfig", **fields)
        assert refused == (Code.INVALID_ARGUMENT, said)


async def test_an_update_needs_its_version_and_the_same_request_changes_nothing_twice(site: Site) -> None:
    fields = {"deployment_version": VERSION, "compute_config_scaling_groups": {"a": update(group())}}
    assert await site.refused("UpdateWorkerDeploymentVersionComputeConfig", **fields) == (
        Code.NOT_FOUND,
        "build ID '1' not found in Worker Deployment 'd'",
    )
    await site.create()
    await site.change("u", a=update(group({"arn": "a"})))
    await site.change("u", a=update(group({"arn": "b"}), "provider"))
    assert await _config(site) == {"a": group({"arn": "a"})}
    await site.change("v", a=update(group({"arn": "b"}), "provider"))
    assert await _config(site) == {"a": group({"arn": "b"})}


async def test_validation_starts_nothing_and_needs_no_version(site: Site) -> None:
    validate = "ValidateWorkerDeploymentVersionComputeConfig"
    await site.call(
        validate, deployment_version=VERSION, compute_config_scaling_groups={"a": update(group({"arn": "a"}))}
    )
    assert (site.notes.validated, site.notes.started) == ([{"arn": "a"}], [])
    assert (await site.refused(validate, deployment_version=VERSION))[0] is Code.INVALID_ARGUMENT
    await site.create({"default": group()})
    await site.call(validate, deployment_version=VERSION)
    assert await site.refused(
        validate, deployment_version=VERSION, remove_compute_config_scaling_groups=["default"]
    ) == (Code.INVALID_ARGUMENT, "spec must have at least one entry")


# ---- starting workers ------------------------------------------------------------------------------------------------


async def test_a_task_without_a_worker_starts_one_and_a_burst_several(site: Site) -> None:
    await site.ready()
    await site.start("a")
    assert site.notes.started == [1]
    await site.start(*(f"w{n}" for n in range(34)))
    await site.pass_time(0.2)
    assert sum(site.notes.started) == 4


async def test_a_task_that_finds_a_poll_starts_no_worker_and_leaves_no_rows(site: Site) -> None:
    await site.ready()
    poll = asyncio.ensure_future(
        site.call("PollWorkflowTaskQueue", task_queue={"name": "q"}, identity="w", deployment_options=OPTIONS)
    )
    await site.settle()
    await site.start("a")
    assert (await poll).workflow_execution.workflow_id == "a"
    assert site.notes.started == []
    assert await site.rows() == (0, 0)


async def test_without_a_config_a_versions_tasks_start_no_worker(site: Site) -> None:
    await site.create()
    await site.poll()
    await site.call("SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="1")
    await site.start("a")
    assert site.notes.started == []
    record = await site.backend.store.get_task_queue(site.backend.namespace_id, "/_sys/push/d:1", 0)
    assert (await site.rows(), record) == ((0, 0), None)


async def test_starts_of_a_worker_that_never_polls_back_off_and_are_described(site: Site) -> None:
    await site.ready()
    await site.start("a")
    await site.pass_time(30)
    shown = (await site.summary()).compute_status.provider_validation
    assert shown.error_message == "default: workers were started and did not poll in time: 1 (failures in a row: 1)"
    assert shown.last_check_time.ToNanoseconds() == site.backend.clock.now_ns()
    assert site.notes.started == [1]
    await site.pass_time(1)
    assert site.notes.started == [1, 1]
    await site.pass_time(31)
    assert site.notes.started == [1, 1]
    await site.pass_time(1)
    assert site.notes.started == [1, 1, 1]
    await site.work()
    await site.leave()
    await site.pass_time(40)
    assert (await site.summary()).compute_status.provider_validation.error_message == ""
    assert await site.rows() == (0, 0), "nothing waits, so nothing is left to look at"


async def test_a_target_that_refuses_is_retried_later_and_described(site: Site) -> None:
    await site.ready()
    site.notes.refuses = "denied"
    await site.start("a", "b", "c")
    message = (await site.summary()).compute_status.provider_validation.error_message
    assert message == "default: denied (failures in a row: 1)"
    await site.pass_time(1)
    assert "failures in a row: 2" in (await site.summary()).compute_status.provider_validation.error_message
    site.notes.refuses = ""
    await site.pass_time(1.5)
    assert site.notes.started == []
    await site.pass_time(1)
    assert site.notes.started == [1]


async def test_after_a_worker_has_left_the_next_task_starts_another_at_once(site: Site) -> None:
    await site.ready()
    await site.start("a")
    await site.work()
    await site.leave()
    await site.pass_time(1)
    await site.start("b")
    assert site.notes.started == [1, 1]


async def test_a_query_that_finds_no_worker_starts_one(site: Site) -> None:
    await site.ready()
    await site.start("a")
    await site.work()
    await site.leave()
    await site.pass_time(1)
    asked = asyncio.ensure_future(site.call("QueryWorkflow", execution={"workflow_id": "a"}, query={"query_type": "x"}))
    await site.settle()
    assert site.notes.started == [1, 1]
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def test_waiting_tasks_start_workers_when_a_config_is_added(site: Site) -> None:
    await site.create()
    await site.poll()
    await site.leave()
    await site.call("SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="1")
    await site.start(*(f"w{n}" for n in range(25)))
    await site.change(default=update(group()))
    await site.pass_time(0.2)
    assert site.notes.started == [1, 2]


async def test_a_commit_whose_process_dies_is_made_good_by_the_sweep_of_another(two: Site) -> None:
    site = two
    await site.ready()
    process = site.backend.processes[0]
    site.backend.weather.lost_hint = 1.0
    await site.start("a")
    assert site.notes.started == []
    assert (await site.rows())[1] == 1
    site.backend.weather.lost_hint = 0.0
    await process.history.transfers.sweep_once()
    await process.history.transfers.drain()
    assert site.notes.started == [1]
    assert (await site.rows())[1] == 0


async def test_two_instances_that_see_the_same_task_start_one_worker(two: Site) -> None:
    site = two
    await site.ready()
    site.backend.weather.lost_hint = 1.0
    await site.start("a")
    site.backend.weather.lost_hint = 0.0
    for process in site.backend.processes:
        await process.history.transfers.sweep_once()
    await site.settle()
    assert site.notes.started == [1]


async def test_a_start_that_a_crash_swallowed_is_made_again(site: Site) -> None:
    """Noted in the row, and then the process died before the provider was asked."""
    await site.ready()
    site.notes.dies = True
    await site.start("a")
    site.notes.dies = False
    process = site.backend.processes[0]
    await process.history.transfers.sweep_once()
    await process.history.transfers.drain()
    await site.settle()
    assert site.notes.started == []
    await site.pass_time(32)
    assert site.notes.started == [1]


async def test_a_version_goes_with_its_config(site: Site) -> None:
    await site.create({"default": group()})
    await site.call("DeleteWorkerDeploymentVersion", deployment_version=VERSION)
    await site.create(request_id="again")
    assert not (await site.summary()).HasField("compute_status")
