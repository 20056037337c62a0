"""Links in answers that the server of the parity tests does not have yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.parity import commands as c
from tests.parity import servers
from tests.parity.puppet import NAMESPACE, Puppet
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Server]:
    with servers.in_a_loop_of_its_own(servers.our_server("memory")) as address:
        yield address


def _is_link(link: Any, p: Puppet, run_id: str, reason: str) -> bool:
    found = link.workflow
    return (found.namespace, found.workflow_id, found.run_id, found.reason) == (
        NAMESPACE, p.workflow_id, run_id, reason,
    )  # fmt: skip


async def test_an_answered_query_links_to_the_queried_run(p: Puppet) -> None:
    run_id = await p.start()
    await p.step(c.timer())
    asked = p.begin("QueryWorkflow", execution=p.execution(), query={"query_type": "q"})
    task = await p.workflow_task()
    await p.call("RespondQueryTaskCompleted", task_token=task.task_token, completed_type="QUERY_RESULT_TYPE_ANSWERED")
    assert _is_link((await asked.answer()).link, p, run_id, "Query processed")


async def test_a_rejected_query_links_to_the_run_that_rejected_it(p: Puppet) -> None:
    run_id = await p.start()
    await p.terminate()
    answer = await p.call(
        "QueryWorkflow", execution=p.execution(), query={"query_type": "q"},
        query_reject_condition="QUERY_REJECT_CONDITION_NOT_OPEN",
    )  # fmt: skip
    assert _is_link(answer.link, p, run_id, "Query rejected")
