"""Workers that are versioned by build ids alone may be switched off."""

from __future__ import annotations

import logging

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import FakeClock
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.ids import CountedIds
from whistlestop.common.timing.throttle import ThrottledWarnings
from whistlestop.frontend.api import Rules, parts_of
from whistlestop.frontend.config import FrontendConfig


@pytest.mark.parametrize(
    "request_type", [rr.PollWorkflowTaskQueueRequest, rr.PollActivityTaskQueueRequest, rr.PollNexusTaskQueueRequest]
)
def test_polls(request_type: type[rr.PollWorkflowTaskQueueRequest]) -> None:
    request = request_type()
    request.task_queue.name = "q"
    request.worker_version_capabilities.build_id = "1"
    validate = parts_of(request_type.__name__.removesuffix("Request")).validator
    assert validate is not None
    warn = ThrottledWarnings(logging.getLogger(__name__), FakeClock())
    rules = Rules(FrontendConfig(worker_versioning_workflow_apis=False), CountedIds(), warn)
    validate(request, None, rules)
    request.worker_version_capabilities.use_versioning = True
    with pytest.raises(ServiceError) as refused:
        validate(request, None, rules)
    assert refused.value.code is Code.PERMISSION_DENIED
    validate(request, None, Rules(FrontendConfig(), CountedIds(), warn))
