"""Start a server without the library that parses command lines.

SDKs and test suites start servers often, and importing typer takes longer than parsing their few flags. So a plain
command line of `server start-dev` or `server start` is parsed here; anything else (help, a config file, a mistake, a
value that begins with a dash) is left to typer, which handles it as for every command.

The tables contain what a plain command line needs of each flag; a test compares them with the typer options in
`server`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

from whistlestop.server.config import DEFAULT_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TEXT, TEXTS, SWITCH, PORT, SECONDS = "text", "texts", "switch", "port", "seconds"
ENVIRONMENT = "WHISTLESTOP_"
_MAX_PORT = 65535
_INTEGER = re.compile("[0-9]{1,9}")
_DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")

_COMMON: Final[Mapping[str, tuple[str, Any]]] = {
    "port": (PORT, DEFAULT_PORT),
    "metrics_ip": (TEXT, ""),
    "http_cors_origin": (TEXTS, None),
    "db_filename": (TEXT, ""),
    "namespace": (TEXTS, None),
    "search_attribute": (TEXTS, None),
    "dynamic_config_value": (TEXTS, None),
    "dynamic_config_file": (TEXT, ""),
    "sqlite_pragma": (TEXTS, None),
    "api_keys": (TEXT, ""),
    "allow_anonymous": (SWITCH, False),
    "allow_outbound": (TEXTS, None),
}
START_DEV: Final[Mapping[str, tuple[str, Any]]] = {
    **_COMMON,
    "ip": (TEXT, "localhost"),
    "http_port": (PORT, 0),
    "metrics_port": (PORT, 0),
    "ui_port": (PORT, 0),
    "ui_ip": (TEXT, ""),
    "ui_asset_path": (TEXT, ""),
    "ui_codec_endpoint": (TEXT, ""),
    "ui_public_path": (TEXT, ""),
    "ui_disable_news_fetch": (SWITCH, False),
    "headless": (SWITCH, False),
    "log_level": (TEXT, "warn"),
    "log_format": (TEXT, "text"),
    "log_config": (SWITCH, False),
}
START: Final[Mapping[str, tuple[str, Any]]] = {
    **_COMMON,
    "ip": (TEXT, "127.0.0.1"),
    "http_port": (PORT, None),
    "metrics_port": (PORT, None),
    "database_url": (TEXT, ""),
    "database_listen_url": (TEXT, ""),
    "services": (TEXT, "frontend,history,matching"),
    "history_url": (TEXTS, None),
    "matching_url": (TEXTS, None),
    "internal_port": (PORT, None),
    "internal_ip": (TEXT, ""),
    "internal_secret": (TEXT, ""),
    "internal_secret_file": (TEXT, ""),
    "log_level": (TEXT, "info"),
    "log_format": (TEXT, "json"),
    "tls_cert": (TEXT, ""),
    "tls_key": (TEXT, ""),
    "tls_client_ca": (TEXT, ""),
    "broadcast_address": (TEXT, ""),
    "drain_s": (SECONDS, 5.0),
}
"""Parameter -> kind and default. A flag has the name of its parameter, with dashes."""
NAMES: Final[Mapping[str, str]] = {"-p": "port", "-n": "namespace", "-f": "db_filename", "--drain": "drain_s"}
"""Flags with another name."""
FROM_ENVIRONMENT: Final = frozenset(
    {
        "database_url", "database_listen_url", "history_url", "matching_url", "internal_port", "internal_secret",
        "metrics_ip", "api_keys", "allow_anonymous", "allow_outbound",
    }
)  # fmt: skip
"""Parameters whose default may come from `WHISTLESTOP_…`."""


def plain(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> tuple[str, dict[str, Any]] | None:
    """Return the command and its parameters, or None if typer has to parse the command line."""
    commands = {"start-dev": START_DEV, "start": START}
    if len(arguments) < 2 or arguments[0] != "server" or arguments[1] not in commands:
        return None
    table = commands[arguments[1]]
    values = {name: default for name, (_, default) in table.items()}
    if not _read_environment(table, values, environment):
        return None
    given = iter(arguments[2:])
    seen: set[str] = set()
    for argument in given:
        flag, equals, text = argument.partition("=") if argument.startswith("--") else (argument, "", "")
        name = NAMES.get(flag) or (flag[2:].replace("-", "_") if flag.startswith("--") and "_" not in flag else "")
        if name not in table or (name == "drain_s" and flag != "--drain"):
            return None
        kind = table[name][0]
        if kind == SWITCH:
            if equals:
                return None
            values[name] = True
            continue
        if not equals:
            text = next(given, "-")
        if (text.startswith("-") and not equals) or not _put(values, name, kind, text, again=name in seen):
            return None
        seen.add(name)
    return arguments[1], values


def _put(values: dict[str, Any], name: str, kind: str, text: str, *, again: bool) -> bool:
    """Store a value; return False if it is not plain."""
    if kind == TEXT:
        values[name] = text
    elif kind == TEXTS:
        values[name] = [*(values[name] if again else ()), text]
    elif kind == PORT and _INTEGER.fullmatch(text) and int(text) <= _MAX_PORT:
        values[name] = int(text)
    elif kind == SECONDS and _DECIMAL.fullmatch(text):
        values[name] = float(text)
    else:
        return False
    return True


def _read_environment(
    table: Mapping[str, tuple[str, Any]], values: dict[str, Any], environment: Mapping[str, str]
) -> bool:
    """Read defaults from the environment; return False if one of them is not plain."""
    if environment.get(f"{ENVIRONMENT}CONFIG"):
        return False
    for name in FROM_ENVIRONMENT.intersection(table):
        text = environment.get(f"{ENVIRONMENT}{name.upper()}")
        if text and table[name][0] != TEXT:
            return False
        if text:
            values[name] = text
    return True


def run(arguments: Sequence[str]) -> int | None:
    """Start a server and return its exit code; None if typer has to parse the command line."""
    found = plain(arguments)
    if found is None:
        return None
    from whistlestop.server.cli.errors import CommandError, complain
    from whistlestop.server.cli.start import starting

    command, parameters = found
    start: Callable[..., int] = starting.start_dev if command == "start-dev" else starting.start
    try:
        return start(**parameters)
    except CommandError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
