"""Checks before a deployment changes anything: what CloudFormation would refuse, or the created stack.

A dry run makes the same checks, so that it succeeds only where the deployment can proceed.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any

from whistlestop.deploy.settings import DeployError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
MAX_STACK_NAME_LENGTH = 40
"""Characters: it is the prefix of names of functions and queues, which may have 64."""
_RATE = re.compile(r"rate\(([1-9][0-9]*) (minutes?|hours?|days?)\)")
_CRON = re.compile(r"cron\((?:[^ )]+ ){5}[^ )]+\)")
_TOPIC = re.compile(r"arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]+")
_RATES = ("SweepRate", "HousekeepingRate")


def check_stack_name(name: str) -> None:
    """Raise DeployError for an invalid name of a stack, or of the resources named after it."""
    if not _STACK_NAME.fullmatch(name) or len(name) > MAX_STACK_NAME_LENGTH:
        raise DeployError(
            f"--stack-name {name} is not a letter followed by letters, digits and hyphens, "
            f"{MAX_STACK_NAME_LENGTH} at most"
        )


def check_bundles(folder: Path | None, functions: tuple[str, ...]) -> None:
    """Raise DeployError if the folder of `--bundles` lacks a function's bundle."""
    for function in functions:
        if folder is not None and not (folder / f"{function}.zip").is_file():
            raise DeployError(f"there is no {folder / f'{function}.zip'}")


def check_parameters(chosen: Mapping[str, str], known: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise DeployError for a parameter that the template does not have, or a value that it does not allow."""
    for name, value in chosen.items():
        if name not in known:
            raise DeployError(f"the template has no parameter {name}; it has {', '.join(known)}")
        _check_value(name, value, known[name])
        if name in _RATES and value and not (_RATE.fullmatch(value) or _CRON.fullmatch(value)):
            raise DeployError(f"{name} can't be {value}: it is rate(N minutes|hours|days), or cron(…) with six fields")
    topic = chosen.get("AlarmTopicArn", "")
    if topic and not _TOPIC.fullmatch(topic):
        raise DeployError(f"AlarmTopicArn can't be {topic}: it is the ARN of an SNS topic, arn:aws:sns:…")


def _check_value(name: str, value: str, rules: Mapping[str, Any]) -> None:
    allowed = [str(each) for each in rules.get("AllowedValues", ())]
    if allowed and value not in allowed:
        raise DeployError(f"{name} can't be {value}: it is one of {', '.join(allowed)}")
    pattern = rules.get("AllowedPattern")
    if pattern and not re.fullmatch(pattern, value):
        raise DeployError(f"{name} can't be {value}: it must match {pattern}")
    if rules["Type"] == "Number":
        least, most = rules.get("MinValue"), rules.get("MaxValue")
        if not re.fullmatch(r"-?[0-9]+", value):
            raise DeployError(f"{name} can't be {value}: it is a number")
        if (least is not None and int(value) < least) or (most is not None and int(value) > most):
            raise DeployError(f"{name} can't be {value}: it is {least} to {most}")


def check_database(url: str, *, on_this_machine: bool) -> None:
    """Raise DeployError for an invalid database URL, or a host that functions cannot reach.

    `on_this_machine`: the functions run here (LocalStack), and can reach loopback addresses.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError as error:
        raise DeployError(f"--database-url can't be read: {str(error).strip()}") from None
    for port in filter(None, str(parts.get("port") or "").split(",")):
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise DeployError(f"--database-url can't be read: {port} is not a port")
    hosts = [host for key in ("host", "hostaddr") for host in str(parts.get(key) or "").split(",") if host]
    if not hosts:
        raise DeployError("--database-url names no host: functions can't reach a socket of this machine")
    for host in hosts:
        if not on_this_machine and _is_of_one_machine(host):
            raise DeployError(f"--database-url names {host}: for a function that is its own machine")


def _is_of_one_machine(host: str) -> bool:
    if host.startswith("/") or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified or address.is_link_local
