"""RPCs for workers beyond Temporal's API. Served over HTTP and in process; official clients never call them."""

from __future__ import annotations

from whistlestop.common.proto import worker_pb2 as worker_pb
from whistlestop.common.renamed_rpcs import OLD_NAMES
from whistlestop.frontend.registry import Access, RpcSpec, Served

WORKER_SERVICE = "whistlestop.worker.v1.WorkerService"

_PROBE_BACKLOG = RpcSpec(
    full_name=f"{WORKER_SERVICE}/ProbeBacklog",
    service=WORKER_SERVICE,
    method="ProbeBacklog",
    request_type=worker_pb.ProbeBacklogRequest,
    response_type=worker_pb.ProbeBacklogResponse,
    served=Served.MATCHING,
    feature=None,
    access=Access.WORKER,
    namespaced=True,
    by_token=False,
    admin_fields=(),
    long_poll=True,
)

OWN_REGISTRY: dict[str, RpcSpec] = {
    _PROBE_BACKLOG.full_name: _PROBE_BACKLOG,
    f"{WORKER_SERVICE}/{OLD_NAMES[_PROBE_BACKLOG.method]}": _PROBE_BACKLOG,
}
"""RPCs by `package.Service/Method`, under their present name and that of release 0.1.0."""
