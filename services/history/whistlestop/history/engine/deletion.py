"""Delete a run, even one whose stored state is damaged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.workflow import close
from whistlestop.storage import errors as storage_errors

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.engine import Engine

_log = logging.getLogger(__name__)


async def end_and_delete(engine: Engine, namespace_id: str, workflow_id: str, run_id: str) -> None:
    """Terminate the run if it is open, so that parent and children are notified; then delete everything stored of it.

    A run that can't be terminated because its rows are damaged is deleted all the same. Raise NOT_FOUND or
    StorageError.
    """

    def end(run: Run) -> None:
        if run.is_open:
            close.terminate(run, reason="Delete workflow execution", identity=close.HISTORY_SERVICE)

    try:
        run, _ = await engine.change(namespace_id, workflow_id, run_id, end, repairs=True)
        key = run.key
    except Exception as error:
        if not _is_damage(error):
            raise
        key = await engine.resolve(namespace_id, workflow_id, run_id)
        _log.exception("workflow %s, run %s can't be terminated: it is deleted all the same", workflow_id, key.run_id)
    await engine.delete(key)
    row = (key.namespace_id, key.workflow_id, key.run_id)
    for table, of_row in (("executions", row), ("timer_tasks", (*row, "execution"))):
        if engine.aside.is_noted(table, of_row):
            await engine.aside.forget(table, of_row)


def _is_damage(error: Exception) -> bool:
    if isinstance(error, ServiceError):
        return error.code is Code.DATA_LOSS
    return isinstance(error, storage_errors.Unreadable) or not isinstance(error, storage_errors.StorageError)
