"""The frontend as a Lambda function: HTTP events in (see `functions.http_events`), HTTP answers out."""

from __future__ import annotations

from whistlestop.frontend.function_instance import FrontendInstance
from whistlestop.functions.bootstrap import Function
from whistlestop.functions.settings import FrontendSettings

function = Function("frontend", FrontendSettings, FrontendInstance)
handler = function.handle
