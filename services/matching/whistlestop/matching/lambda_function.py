"""Matching as a Lambda function, called by the other two."""

from __future__ import annotations

from whistlestop.functions.bootstrap import Function
from whistlestop.functions.settings import MatchingSettings
from whistlestop.matching.function_instance import MatchingInstance

function = Function("matching", MatchingSettings, MatchingInstance)
handler = function.handle
