"""The dynamic configuration of a function: a document of Temporal's form in JSON, or the parameter that contains it.

    {"limit.maxIDLength": [{"value": 255}],
     "frontend.enableSchedules": [{"value": false, "constraints": {"namespace": "orders"}}]}

The document is the variable itself or, after `ssm:`, in a parameter of Systems Manager. An instance reads it when it
starts. Each function takes the keys that concern it; `whistlestop deploy aws --dynamic-config-file` checks all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.dynamic_config import ONE_VALUE, DynamicConfig, InvalidDynamicConfig
from whistlestop.common.messages.nesting import load_json
from whistlestop.functions.database import BY_PARAMETER, parameter
from whistlestop.functions.settings import PREFIX, BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.net.aws import Aws

VARIABLE = f"{PREFIX}DYNAMIC_CONFIG"


def read_document(given: str, keys: Mapping[str, str], aws: Aws | None = None) -> DynamicConfig:
    """Return the configuration that `given` is or names, of a function that supports these keys.

    Raises BadSettings, and AwsError when AWS does not return the parameter.
    """
    where = VARIABLE
    if given.startswith(BY_PARAMETER):
        where = f"{VARIABLE} ({given})"
        given = parameter(given.removeprefix(BY_PARAMETER), aws)
    try:
        document = load_json(given)
    except ValueError as error:
        raise BadSettings(f"{where} is not JSON: {error}") from None

    def is_by_namespace(key: str) -> bool | None:
        return key not in ONE_VALUE if key in keys else None

    try:
        return DynamicConfig.of_document(document, where, where, is_by_namespace)
    except InvalidDynamicConfig as error:
        raise BadSettings(str(error)) from None
