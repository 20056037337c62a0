"""History as a Lambda function: called by the other two, and invoked by schedules and queues to fire timers."""

from __future__ import annotations

from whistlestop.functions.bootstrap import Function
from whistlestop.functions.settings import HistorySettings
from whistlestop.history.function_instance import HistoryInstance

function = Function("history", HistorySettings, HistoryInstance)
handler = function.handle
