"""Write docs/settings.md: every dynamic configuration key of Temporal's server, and what is done of it here."""

from __future__ import annotations

import sys
from pathlib import Path

from whistlestop.server.dynamic_config import SECTIONS, is_span
from whistlestop.server.temporal_settings import REASONS, RELEASE, Setting, settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
INTRODUCTION = f"""# Dynamic configuration

`server start` and `server start-dev` take Temporal's dynamic configuration: `--dynamic-config-value KEY=JSON` for each
value, or `dynamic_config_value` in the file of `--config`. Case does not matter in keys; durations are written as in
Temporal (`"1m30s"`) or in seconds. A value of the wrong kind is refused. A key that changes nothing is warned of at the
start: one of Temporal {RELEASE} with the reason that this page gives, any other as unknown.

Each process reads its own: history the limits of workflows, matching the keys of task queues, the frontend those of the
API. Functions have the defaults.

This page is written by `python infra/tools/settings_page.py`, from the list of keys in
`services/server/whistlestop/server/temporal_settings.tsv`.
"""


def page() -> str:
    """The whole page."""
    found = settings()
    honoured = [setting for setting in found if not setting.why]
    lines = [INTRODUCTION, f"## Honoured ({len(honoured)})", "", "| key | default | in Temporal, where it differs |"]
    lines.append("|---|---|---|")
    for setting in honoured:
        here = default_here(setting)
        differs = setting.default if setting.default and here != setting.default else ""
        lines.append(f"| `{setting.key}` | {_code(here)} | {_code(differs)} |")
    lines += ["", f"## Not honoured ({len(found) - len(honoured)})", ""]
    for why, text in REASONS.items():
        keys = [f"`{setting.key}`" for setting in found if setting.why == why]
        lines += [f"### {text[0].upper()}{text[1:]} ({len(keys)})", "", ", ".join(keys), ""]
    return "\n".join(lines)


def default_here(setting: Setting) -> str:
    """The default of this server, written as in Temporal."""
    for cls, keys in SECTIONS:
        name = keys.get(setting.key.lower())
        if name is not None:
            return _shown(name, getattr(cls()(), name))
    raise LookupError(setting.key)


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if name.endswith("_percent") and isinstance(value, int):
        return str(value / 100)
    if is_span(name) and isinstance(value, int | float):
        return _span(value / 10**9 if name.endswith("_ns") else value)
    if value is None or isinstance(value, tuple):
        return "[]" if not value else str(value)
    return f'"{value}"' if isinstance(value, str) else str(value)


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds and seconds % length == 0:
            return f"{int(seconds) // length}{unit}"
    return f"{round(seconds * 1000)}ms"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE} is written\n")
