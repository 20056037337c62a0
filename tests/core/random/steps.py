"""What all steps of random histories share: the world, the tokens handed out, and the choice of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb

from tests.core.checks import OPEN, CheckedWorld

if TYPE_CHECKING:
    from tests.core.random.numbers import Numbers
    from whistlestop.common.proto.internal_pb2 import TaskToken

WORKFLOW_IDS = ("wf", "other", "third")
CALLBACK = common_pb.Callback(nexus=common_pb.Callback.Nexus(url="temporal://system"))
UPDATE_IDS = ("u0", "u1", "u2")


class Steps:
    """Steps on a world. A method `do_…` is a step, and takes the numbers that it chooses by."""

    def __init__(self, world: CheckedWorld) -> None:
        self.world = world
        self.workflow_tokens: list[TaskToken] = []
        self.activity_tokens: list[TaskToken] = []
        self.trace: list[str] = []

    def a_run(self, numbers: Numbers) -> str:
        """Mostly an open run, sometimes any."""
        every = list(self.world.stored)
        still = [run_id for run_id in every if self.world.state(run_id).status in OPEN]
        known = every if numbers.below(8) == 7 or not still else still
        return known[numbers.below(len(known))]
