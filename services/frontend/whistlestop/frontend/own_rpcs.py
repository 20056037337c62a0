"""RPCs for workers beyond Temporal's API. Served over HTTP and in process; official clients never call them."""

from __future__ import annotations

from whistlestop.common.proto import worker_pb2 as worker_pb
from whistlestop.frontend.registry import Access, RpcSpec, Served

WORKER_SERVICE = "whistlestop.worker.v1.WorkerService"

_LOOK = RpcSpec(
    full_name=f"{WORKER_SERVICE}/LookForTasks",
    service=WORKER_SERVICE,
    method="LookForTasks",
    request_type=worker_pb.LookForTasksRequest,
    response_type=worker_pb.LookForTasksResponse,
    served=Served.MATCHING,
    feature=None,
    access=Access.WORKER,
    namespaced=True,
    by_token=False,
    admin_fields=(),
    long_poll=True,
)

OWN_REGISTRY: dict[str, RpcSpec] = {_LOOK.full_name: _LOOK}
"""RPCs by `package.Service/Method`."""
