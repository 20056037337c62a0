"""What `temporal operator cluster list` shows as the addresses of the only cluster."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb

from whistlestop.common.clock import SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.notify import LocalNotifier
from whistlestop.server.assembly import assemble
from whistlestop.server.config import ServerConfig
from whistlestop.storage.sqlite import SqliteStore

LIST_CLUSTERS = "temporal.api.operatorservice.v1.OperatorService/ListClusters"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ServerConfig(ip="127.0.0.1", port=7233, http_port=7243), ("127.0.0.1:7233", "127.0.0.1:7243")),
        (ServerConfig(ip="::1", port=7233, http_port=None), ("[::1]:7233", "")),
        (ServerConfig(ip="127.0.0.1", port=7233, broadcast_address="10.0.0.7:443"), ("10.0.0.7:443", "")),
        (ServerConfig(ip="127.0.0.1", port=0, http_port=0), ("", "")),
    ],
    ids=["both", "IPv6", "broadcast", "chosen at the start"],
)
async def test_the_cluster_shows_where_it_is_reached(config: ServerConfig, expected: tuple[str, str]) -> None:
    services = assemble(config, SqliteStore(":memory:"), LocalNotifier(SystemClock()))
    listed: Any = await services.frontend.call(LIST_CLUSTERS, operator_pb.ListClustersRequest(), CallContext())
    (cluster,) = listed.clusters
    assert (cluster.address, cluster.http_address) == expected
