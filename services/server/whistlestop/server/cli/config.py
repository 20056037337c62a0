"""`whistlestop config show`: the configuration of a server with these files and values, and their sources."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whistlestop.server.cli.errors import CommandError
from whistlestop.server.cli.output import Output, print_json, print_table, wants_json
from whistlestop.server.cli.start.config_file import (  # noqa: TC001 - typer reads the annotations
    ConfigFile,
    DynamicConfigFile,
    DynamicConfigValues,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whistlestop.server.settings.dynamic_config import DynamicConfig

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_FLAG, _DEFAULT = "--dynamic-config-value", "default"
_SECRETS = frozenset(("internal_secret",))


@app.callback()
def _group() -> None:
    """Keep `show` a subcommand while it is the only one."""


@app.command()
def show(
    context: typer.Context,
    *,
    config_file: ConfigFile = "",
    dynamic_config_value: DynamicConfigValues = None,
    dynamic_config_file: DynamicConfigFile = "",
    everything: Annotated[bool, typer.Option("--all", help="Also show unset values with their defaults.")] = False,
    output: Output = "table",
) -> None:
    """Show the flags of `server start` and the dynamic configuration, with the source of each value."""
    as_json = wants_json(output)
    given = context.get_parameter_source("dynamic_config_value")
    source = f"--config {config_file}" if config_file and given is not None and given.name == "DEFAULT_MAP" else _FLAG
    dynamic = _dynamic(dynamic_config_value, dynamic_config_file, source)
    of_file = dict(context.default_map or {})
    flags = list(_flags(of_file, f"--config {config_file}", everything=everything))
    values = list(_values(dynamic, everything=everything))
    if as_json:
        print_json({"flags": flags, "dynamic_config": values})
        return
    print_table(("FLAG", "VALUE", "SOURCE"), [(each["flag"], _text(each["value"]), each["source"]) for each in flags])
    print()
    print_table(
        ("DYNAMIC CONFIGURATION", "NAMESPACE", "VALUE", "SOURCE"),
        [(each["key"], each["namespace"], _text(each["value"]), each["source"]) for each in values],
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _dynamic(given: list[str] | None, path: str, source: str) -> DynamicConfig:
    from whistlestop.common.dynamic_config import InvalidDynamicConfig
    from whistlestop.server.settings.dynamic_config import DynamicConfig
    from whistlestop.server.settings.dynamic_file import DynamicSource

    try:
        flags = DynamicConfig.parse(given or (), source)
        flags.check()
        return DynamicSource(path, flags).read() if path else flags
    except InvalidDynamicConfig as error:
        raise CommandError(str(error), 2) from error


def _flags(of_file: dict[str, Any], file: str, *, everything: bool) -> Iterator[dict[str, Any]]:
    """Yield each flag of `server start` from the environment, else from the file, else with its default."""
    from whistlestop.server.cli.start.quick_start import ENVIRONMENT, FROM_ENVIRONMENT, START

    for name, (_, default) in START.items():
        if name in ("dynamic_config_value", "dynamic_config_file"):
            continue
        variable = f"{ENVIRONMENT}{name.upper()}"
        if name in FROM_ENVIRONMENT and variable in os.environ:
            value, source = os.environ[variable], variable
        elif name in of_file:
            value, source = of_file[name], file
        else:
            value, source = default, _DEFAULT
        if everything or source != _DEFAULT:
            flag = "--drain" if name == "drain_s" else f"--{name.replace('_', '-')}"
            yield {"flag": flag, "value": _printable(name, value), "source": source}


def _printable(name: str, value: Any) -> Any:
    from whistlestop.server.config import without_password

    if name in _SECRETS and value:
        return "(secret)"
    return without_password(value) if name.endswith("database_url") and value else value


def _values(dynamic: DynamicConfig, *, everything: bool) -> Iterator[dict[str, Any]]:
    """Yield each configured value, with a remark if it has no effect."""
    from whistlestop.server.settings.dynamic_config import HONOURED
    from whistlestop.server.settings.temporal_settings import settings

    names = {setting.key.lower(): setting.key for setting in settings()}
    for namespace, values in (("", dynamic.values), *sorted(dynamic.namespaces.items())):
        for key, value in sorted(values.items()):
            source = dynamic.sources.get((namespace, key), _FLAG)
            if key not in HONOURED:
                source += " (changes nothing)"
            yield {"key": names.get(key, key), "namespace": namespace, "value": value, "source": source}
    if everything:
        for key in sorted(HONOURED - dynamic.values.keys()):
            yield {"key": names.get(key, key), "namespace": "", "value": _default(key), "source": _DEFAULT}


def _default(key: str) -> object:
    """Return the default of a key, durations in the form of the configuration."""
    from whistlestop.common.dynamic_config import as_given
    from whistlestop.server.settings.dynamic_config import SECTIONS

    for settings_of, keys in SECTIONS:
        if key in keys:
            return as_given(keys[key], getattr(settings_of()(), keys[key]))
    raise LookupError(key)
