"""Backlog probes, as calls to the target."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from whistlestop.bridge.counters import PROBE
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto import worker_pb2 as worker_pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.bridge.target import Target

log = logging.getLogger(__name__)

_SERVICE: Final = "/whistlestop.worker.v1.WorkerService/"
PROBE_PATH: Final = _SERVICE + "ProbeBacklog"
OLD_PROBE_PATH: Final = _SERVICE + "LookForTasks"
"""The same in release 0.1.0."""


class Prober:
    """Sends probes by the name that the target knows: the present one, or that of release 0.1.0."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._path = PROBE_PATH

    async def probe(
        self, request: worker_pb.ProbeBacklogRequest, headers: Mapping[str, str], timeout_s: float
    ) -> worker_pb.ProbeBacklogResponse:
        """Send the probe and return its answer. Raises ServiceError, INTERNAL if the answer can't be parsed."""
        data = request.SerializeToString()
        try:
            answer = await self._target.call(self._path, data, headers, timeout_s, PROBE)
        except ServiceError as error:
            if error.code is not Code.UNIMPLEMENTED:
                raise
            other = OLD_PROBE_PATH if self._path == PROBE_PATH else PROBE_PATH
            answer = await self._target.call(other, data, headers, timeout_s, PROBE)
            if other == OLD_PROBE_PATH:
                log.warning("the target is of release 0.1.0, probes are sent by their old name: upgrade it first")
            self._path = other
        try:
            return worker_pb.ProbeBacklogResponse.FromString(answer)
        except DecodeError:
            raise ServiceError(Code.INTERNAL, "the target's answer to ProbeBacklog can't be parsed") from None
