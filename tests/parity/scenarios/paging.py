"""Page sizes and page tokens that make no sense, of every list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity.puppet import Refused
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

LISTS = (
    "ListNexusEndpoints",
    "ListWorkers",
    "ListWorkerDeployments",
    "ListSchedules",
    "ListBatchOperations",
    "ListActivityExecutions",
    "ListNexusOperationExecutions",
    "ListWorkflowExecutions",
    "ScanWorkflowExecutions",
    "ListArchivedWorkflowExecutions",
    "ListClusters",
)


async def _refused(p: Puppet, rpc: str, **fields: Any) -> bool:
    """What is listed depends on the other scenarios; with which status, we differ on purpose."""
    try:
        await p.call(rpc, record=False, **fields)
    except Refused:
        return True
    return False


@scenario
async def senseless_pages(p: Puppet) -> None:
    # Nobody looks at a token where there is nothing to list.
    await p.call("RecordWorkerHeartbeat", worker_heartbeat=[{"worker_instance_key": p.id("worker")}])
    for rpc in LISTS:
        size = "maximum_page_size" if rpc == "ListSchedules" else "page_size"
        for given in ({size: -1}, {size: 1_000_000}, {"next_page_token": b"garbage"}, {"next_page_token": b"\xff\xfe"}):
            p.note(rpc, [str(given), await _refused(p, rpc, **given)])
