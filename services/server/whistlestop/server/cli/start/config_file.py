"""`--config FILE`: the flags of `server start` in a TOML file, validated before anything starts.

A key is a flag's name with underscores. Precedence: command line, environment, file.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whistlestop.server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_config(context: typer.Context, path: str) -> str:
    """Make the values of the file the defaults of the flags. Raises CommandError with a line for each error."""
    if path:
        context.default_map = {**(context.default_map or {}), **_flags(_parsed(path))}
    return path


ConfigFile = Annotated[
    str,
    typer.Option(
        "--config", metavar="FILE", envvar="WHISTLESTOP_CONFIG", callback=read_config, is_eager=True,
        help="TOML file with these flags; keys are their names with underscores.",
    ),
]  # fmt: skip


DynamicConfigValues = Annotated[
    list[str] | None,
    typer.Option("--dynamic-config-value", metavar="KEY=JSON", help="A dynamic configuration value. Repeatable."),
]
DynamicConfigFile = Annotated[
    str,
    typer.Option(
        "--dynamic-config-file", metavar="FILE",
        help="Dynamic configuration in Temporal's YAML format; reloaded when it changes.",
    ),
]  # fmt: skip


def _parsed(path: str) -> dict[str, Any]:
    from pydantic import ValidationError

    from whistlestop.server.cli.start.server_file import ServerFile

    try:
        given = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise CommandError(f"--config {path}: {error.strerror}", 2) from error
    except ValueError as error:
        raise CommandError(f"--config {path} is not TOML: {error}", 2) from error
    try:
        checked = ServerFile.model_validate(given)
    except ValidationError as error:
        # Leave out the values, because some are secret.
        lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
        raise CommandError("\n".join(f"--config {path}: {line}" for line in lines), 2) from None
    if "@" in checked.database_url + checked.database_listen_url:  # a user, and perhaps a password
        from whistlestop.common.private_files import warn_if_open

        warn_if_open("--config", path)
    return checked.model_dump(exclude_unset=True)


def _flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to the form of the command line."""
    flags = dict(values)
    if "services" in flags:
        flags["services"] = ",".join(flags["services"])
    if "drain" in flags:
        flags["drain_s"] = flags.pop("drain")
    for name in ("search_attribute", "sqlite_pragma"):
        if name in flags:
            flags[name] = [f"{key}={value}" for key, value in flags[name].items()]
    if "dynamic_config_value" in flags:
        flags["dynamic_config_value"] = [
            f"{key}={json.dumps(value)}" for key, value in flags["dynamic_config_value"].items()
        ]
    return flags
