"""The order workflow: reserve, wait for approval, charge, let the payment settle, ship; undo in reverse on failure."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from order_saga import activities
    from order_saga.model import Order, Progress, Receipt

Step = Callable[[Order], Coroutine[Any, Any, str]]

RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5)
APPROVAL_TIMEOUT = timedelta(hours=24)


@workflow.defn
class OrderWorkflow:
    """An order."""

    def __init__(self) -> None:
        self._progress = Progress("reserving stock")
        self._approved_by = ""
        self._undo: list[Step] = []

    @workflow.run
    async def run(self, order: Order) -> Receipt:
        """Process the order, as the module's docstring describes."""
        try:
            await self._step(order, activities.reserve_stock, undo=activities.release_stock)
            self._progress.stage = "waiting for approval"
            await workflow.wait_condition(lambda: bool(self._approved_by), timeout=APPROVAL_TIMEOUT)
            self._progress.stage = "charging"
            await self._step(order, activities.charge_card, undo=activities.refund_card)
            self._progress.stage = "settling"
            await workflow.sleep(order.settlement_s)
            self._progress.stage = "shipping"
            tracking_number = await self._step(order, activities.ship)
        except ActivityError as error:
            self._progress.stage = "compensating"
            await self._compensate(order)
            self._progress.stage = "compensated"
            message = f"order {order.order_id} was undone: {error.cause}"
            raise ApplicationError(message, type="OrderUndone") from error
        self._progress.stage = "done"
        return Receipt(order.order_id, self._approved_by, tracking_number, self._progress.steps)

    @workflow.signal
    def approve(self, by: str) -> None:
        """Approve the order."""
        self._approved_by = by

    @workflow.query
    def progress(self) -> Progress:
        """Return the stage of the order, and the completed steps."""
        return self._progress

    async def _step(self, order: Order, step: Step, undo: Step | None = None) -> str:
        # Register the undo before the step runs, because a step that fails midway may have had an effect.
        if undo is not None:
            self._undo.append(undo)
        result: str = await workflow.execute_activity(
            step, order, start_to_close_timeout=timedelta(seconds=10), retry_policy=RETRIES
        )
        self._progress.steps.append(step.__name__)
        return result

    async def _compensate(self, order: Order) -> None:
        while self._undo:
            await self._step(order, self._undo.pop())
