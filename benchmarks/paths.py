"""Count the files that a reader of a call has to follow, and how often the path goes back to one that it had left.

    python -m benchmarks.paths [--list PATH]

One workflow with an activity and a timer runs over a store in memory, in one process, after a first one has filled the
caches. While a call is served, the file of each Python function that is entered is noted. *Files* are those that occur;
*returns* are the moves into a file that was left before. Two paths are told of each call:

- the path of the decision: functions in history's `api`, `engine` and `core` that are called, whatever is between them.
  It is what a maintainer of history reads. Release 0.1.0 has 23 files and 76 returns for a workflow task that is
  completed with an activity (66 without functions of one line), which is about what a count by hand finds: 23 and 70;
- all of it: every file of this project, and returning from a call counts as a move, too.

Comparing two commits needs this file alone: copy it into the older checkout's `benchmarks/`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.engine import Backend, Worker, complete, schedule
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (f"{ROOT}/services/", f"{ROOT}/storage/")
HISTORY = f"{ROOT}/services/history/whistlestop/history/"
DECIDING = (f"{HISTORY}api/", f"{HISTORY}engine", f"{HISTORY}core/")
"""Release 0.1.0 has its engine in one file, `engine.py`."""


class Moves:
    """The files that control passes through, one entry a move."""

    def __init__(self) -> None:
        self.moves: list[str] = []

    def enter(self, name: str) -> None:
        """Note that a function of that file runs."""
        if not self.moves or self.moves[-1] != name:
            self.moves.append(name)

    @property
    def files(self) -> list[str]:
        """The files in the order of their first occurrence, relative to the root of the project."""
        return [name.removeprefix(f"{ROOT}/") for name in dict.fromkeys(self.moves)]

    @property
    def returns(self) -> int:
        """How many moves went into a file that had occurred before."""
        return len(self.moves) - len(set(self.moves))

    def __str__(self) -> str:
        return f"{len(self.files):4d} files {self.returns:5d} returns"


class Trail:
    """Both paths of one call."""

    def __init__(self) -> None:
        self.decision = Moves()
        self.everything = Moves()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note one event of `sys.setprofile`."""
        entered: FrameType | None = frame
        if event == "return":
            entered = frame.f_back
        elif event != "call":
            return
        if entered is None:
            return
        name = entered.f_code.co_filename
        if name.startswith(SOURCES):
            self.everything.enter(name)
        if event == "call" and name.startswith(DECIDING):
            self.decision.enter(name)

    async def follow(self, work: Awaitable[Any]) -> Any:
        """Await the work and note its paths; return its result."""
        sys.setprofile(self)
        try:
            return await work
        finally:
            sys.setprofile(None)


def start_timer() -> command_pb.Command:
    """Return a command that starts a timer of one second."""
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_START_TIMER)
    command.start_timer_command_attributes.timer_id = "soon"
    command.start_timer_command_attributes.start_to_fire_timeout.seconds = 1
    return command


async def walk(worker: Worker) -> dict[str, Trail]:
    """Run one workflow; return the trail of each of its paths."""
    trails: dict[str, Trail] = {}

    async def step(path: str, work: Awaitable[Any]) -> Any:
        trails[path] = Trail()
        return await trails[path].follow(work)

    await step("StartWorkflowExecution", worker.start())
    task = await step("PollWorkflowTaskQueue, with its started event", worker.workflow_task())
    await step("RespondWorkflowTaskCompleted, an activity", worker.respond(task, [schedule(1)]))
    await step("poll and completion of the activity", worker.activity())
    task = await worker.workflow_task()
    await step("RespondWorkflowTaskCompleted, a timer", worker.respond(task, [start_timer()]))
    task = await step("the timer fires, and a waiting poll gets its task", worker.workflow_task())
    await step("RespondWorkflowTaskCompleted, the end", worker.respond(task, [complete()]))
    return trails


async def main() -> None:
    """Print the table, or the files of one path."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", default="", metavar="PATH", help="print the files of decisions that begin so")
    options = parser.parse_args()
    backend = Backend(":memory:")
    await backend.open()
    worker = Worker(backend)
    await walk(worker)
    for path, trail in (await walk(worker)).items():
        print(f"{path:52s} decision: {trail.decision}   all: {trail.everything}")
        if options.list and path.startswith(options.list):
            print("".join(f"    {name}\n" for name in trail.decision.files), end="")
    await backend.history.close()


if __name__ == "__main__":
    asyncio.run(main())
