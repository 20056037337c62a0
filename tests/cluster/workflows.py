"""What the worker of these tests runs."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy


@activity.defn
async def fails_twice(name: str) -> str:
    attempt = activity.info().attempt
    if attempt < 3:
        raise RuntimeError(f"attempt {attempt}")
    return f"{name} at attempt {attempt}"


@workflow.defn
class Echo:
    """No task but its own."""

    @workflow.run
    async def run(self, text: str) -> str:
        return text


@workflow.defn
class Retries:
    """One activity that fails twice."""

    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(
            fails_twice, name, start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100)),
        )  # fmt: skip


@workflow.defn
class Sleeper:
    """A timer, and nothing else."""

    @workflow.run
    async def run(self, seconds: float) -> str:
        await workflow.sleep(seconds)
        return "awake"


@workflow.defn
class Counter:
    """Counts signals and updates until it is told to end; a child counts along."""

    def __init__(self) -> None:
        self.count = 0
        self.ended = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.ended)
        return self.count

    @workflow.signal
    def add(self, number: int) -> None:
        self.count += number

    @workflow.update
    async def add_and_tell(self, number: int) -> int:
        self.count += number
        return self.count

    @workflow.signal
    def end(self) -> None:
        self.ended = True

    @workflow.query
    def value(self) -> int:
        return self.count


@workflow.defn
class Parent:
    """Transfer tasks: a child is started, signalled from outside its own run, and awaited."""

    @workflow.run
    async def run(self, name: str) -> int:
        child = await workflow.start_child_workflow(Counter.run, id=f"{name}-child")
        await child.signal(Counter.add, 3)
        await workflow.sleep(0.5)
        await workflow.get_external_workflow_handle(f"{name}-child").signal(Counter.end)
        return await child


WORKFLOWS = [Echo, Retries, Sleeper, Counter, Parent]
