"""What the worker works on. An example: put your workflows and activities here."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import VersioningBehavior


@activity.defn
async def greet(name: str) -> str:
    """The work."""
    return f"Hello, {name}!"


@workflow.defn(versioning_behavior=VersioningBehavior.PINNED)
class Greeting:
    """One activity."""

    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(greet, name, start_to_close_timeout=timedelta(seconds=30))


WORKFLOWS = [Greeting]
ACTIVITIES = [greet]
