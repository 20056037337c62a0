"""What is wrong with a request is said as Temporal's server says it: status, message and details.

`refusals.json` was recorded from the real server; see `refusals.py`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.api.fixtures import World, new_world
from tests.api.refusals import RECORDED, answer, cases
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError

_RECORDED: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text())
_CASES = cases()
_BY_HISTORY = ("pinned to a version nobody has",)
"""How cases end that depend on what is stored, which history looks up: see test_deployment_versions.py."""
_REFUSED = sorted(
    name for name in _RECORDED if _RECORDED[name]["code"] != "OK" and name in _CASES and not name.endswith(_BY_HISTORY)
)

# Where the real server's answer comes from a part that has another shape here.
_OTHERWISE: dict[str, dict[str, Any]] = {
    # The real server hides this one behind an internal error.
    "ResetWorkflowExecution: bad reapply type": {
        "code": "INVALID_ARGUMENT",
        "message": "unknown reset reapply type: 77",
        "details": [],
    },
}


async def _answer(world: World, name: str) -> dict[str, Any]:
    full_name, request = _CASES[name]
    try:
        await world.frontend.call(full_name, request, CallContext())
    except ServiceError as error:
        return answer(error.code.name, error.message, list(error.details))
    return answer("OK", "", [])


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    """All cases asked once, of one frontend."""

    async def ask() -> dict[str, dict[str, Any]]:
        world = await new_world()
        found = {name: await _answer(world, name) for name in _REFUSED}
        reached = [method for method, _, _ in world.history.calls + world.matching.calls]
        assert reached == [], "a refused request reached another function"
        await world.frontend.ports.store.close()
        return found

    return asyncio.run(ask())


@pytest.mark.parametrize("name", _REFUSED)
def test_refusal_is_worded_as_temporal_words_it(name: str, answers: dict[str, dict[str, Any]]) -> None:
    """Status, message, details."""
    assert answers[name] == _OTHERWISE.get(name, _RECORDED[name])
