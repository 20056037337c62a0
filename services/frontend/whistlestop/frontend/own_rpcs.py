"""RPCs for workers beyond Temporal's API. Served over HTTP and in process; official clients never call them."""

from __future__ import annotations

from whistlestop.common.rpcs.worker_service import WorkerService
from whistlestop.frontend.registry import Access, RpcSpec, Served, spec_of

WORKER_SERVICE = WorkerService.full_name

_OWN_RPCS = ((WorkerService.ProbeBacklog, Served.MATCHING, Access.WORKER),)

OWN_REGISTRY: dict[str, RpcSpec] = {
    f"{WORKER_SERVICE}/{name}": spec_of(*line)
    for line in _OWN_RPCS
    for name in (line[0].method, line[0].old_name)
    if name
}
"""RPCs by `package.Service/Method`, under their present name and that of release 0.1.0."""
