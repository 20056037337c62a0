"""The workflows and activities of the worker. This is an example: put yours here."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import VersioningBehavior


@activity.defn
async def greet(name: str) -> str:
    """Return a greeting."""
    return f"Hello, {name}!"


@workflow.defn(versioning_behavior=VersioningBehavior.PINNED)
class Greeting:
    """Runs one activity."""

    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(greet, name, start_to_close_timeout=timedelta(seconds=30))


WORKFLOWS = [Greeting]
ACTIVITIES = [greet]
