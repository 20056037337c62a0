"""Generate docs/settings.md: every dynamic configuration key of Temporal's server, and how it is treated here.

Run it after adding a key to `dynamic_config`: it also removes the key's reason from `temporal_settings.tsv`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from whistlestop.common.dynamic_config import as_given, is_span
from whistlestop.server.settings.dynamic_config import HONOURED, SECTIONS, by_namespace
from whistlestop.server.settings.temporal_settings import REASONS, RELEASE, Setting, settings, write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
INTRODUCTION = f"""# Dynamic configuration

`server start` and `server start-dev` take Temporal's dynamic configuration: `--dynamic-config-value KEY=JSON` for each
value, `dynamic_config_value` in the file of `--config`, or a file in Temporal's YAML with `--dynamic-config-file FILE`:

    limit.maxIDLength:
      - value: 255
    frontend.enableSchedules:
      - value: false
        constraints: {{namespace: orders}}

Values of flags go before those of the file. Case does not matter in keys; durations are written as in Temporal
(`"1m30s"`) or in seconds. A value of the wrong kind is refused. A key that changes nothing is warned of at the start:
one of Temporal {RELEASE} with the reason that this page gives, any other as unknown. `whistlestop config show` shows
the values that would hold, and where each comes from.

Of constraints `namespace` is honoured, for the keys that say so below; a value with another one is passed over with a
warning. The file is read again every ten seconds when it has changed; one that can't be read changes nothing, and the
log says why. `frontend.httpAllowedHosts`, which is used when an endpoint is created, and the addresses that webhooks
may have keep the value of the start.

Each process reads its own: history the limits of workflows, matching the keys of task queues, the frontend those of the
API. Functions read theirs when they start, from the parameter `DynamicConfig` of the template (or of the Terraform
module: `dynamic_config`), which has the same document as JSON; `whistlestop deploy aws --dynamic-config-file FILE`
checks the YAML and passes it on. A long one, or one that changes often, is stored in Systems Manager, and named by
`DynamicConfigParameter`.

This page is written by `python infra/tools/settings_page.py`, from the list of keys in
`services/server/whistlestop/server/settings/temporal_settings.tsv`.
"""


def page() -> str:
    """Return the page."""
    found = settings()
    honoured = [setting for setting in found if not setting.why]
    lines = [INTRODUCTION, f"## Honoured ({len(honoured)})", ""]
    lines += ["| key | default | in Temporal, where it differs | by namespace |", "|---|---|---|---|"]
    for setting in honoured:
        here = default_here(setting)
        differs = setting.default if setting.default and here != setting.default else ""
        own = "yes" if setting.key.lower() in by_namespace() else ""
        lines.append(f"| `{setting.key}` | {_code(here)} | {_code(differs)} | {own} |")
    lines += ["", f"## Not honoured ({len(found) - len(honoured)})", ""]
    for why, text in REASONS.items():
        keys = [f"`{setting.key}`" for setting in found if setting.why == why]
        lines += [f"### {text[0].upper()}{text[1:]} ({len(keys)})", "", ", ".join(keys), ""]
    return "\n".join(lines)


def default_here(setting: Setting) -> str:
    """Return this server's default, in Temporal's notation."""
    for cls, keys in SECTIONS:
        name = keys.get(setting.key.lower())
        if name is not None:
            value = as_given(name, getattr(cls()(), name))
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # as Temporal writes it
            return value if is_span(name) and isinstance(value, str) else json.dumps(value)
    raise LookupError(setting.key)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    write([replace(each, why="" if each.key.lower() in HONOURED else each.why) for each in settings()])
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE} is written\n")
