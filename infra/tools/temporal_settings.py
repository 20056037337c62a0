"""Update `temporal_settings.tsv` from a checkout of Temporal's server.

    python infra/tools/temporal_settings.py PATH

It reads all dynamic configuration keys with their scope, type and default. The last column is preserved; a new key
gets `?` there, and a test fails until the key is either supported or given a reason.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from whistlestop.server.settings.temporal_settings import COLUMNS, FILE, Setting, settings, write

if TYPE_CHECKING:
    from collections.abc import Iterator

_DECLARED = re.compile(
    r"New(Global|NamespaceID|Namespace|TaskQueue|ShardID|TaskType|Destination|ChasmTaskType)"
    r"(Bool|Int|Float|String|Duration|Map|Typed)Setting(?:WithConstrainedDefault|(WithConverter))?(?:\[[^\]]*\])?\("
)
_COMMENT = re.compile(r"(?:^|(?<=\s))//[^\n\"`]*$", re.MULTILINE)
_UNITS = {"Nanosecond": 1, "Microsecond": 10**3, "Millisecond": 10**6, "Second": 10**9, "Minute": 60 * 10**9,
          "Hour": 3600 * 10**9}  # fmt: skip
_CONSTANTS = {
    "primitives.DefaultTransactionSizeLimit": "4*1024*1024",
    "primitives.GetHistoryMaxPageSize": "256",
    "primitives.DefaultHistoryMaxAutoResetPoints": "20",
    "primitives.DefaultWorkflowTaskTimeout": "10*time.Second",
    "common.DefaultLongPollTimeout": "60*time.Second",
    "common.DefaultLongPollBuffer": "time.Second",
    "debug.TimeoutMultiplier": "1",
    'os.Getenv("TEMPORAL_VERSION_CHECK_DISABLED") == ""': "true",
    "StaticGradualChange(true)": "true",
    "StaticGradualChange(false)": "false",
    "StaticGradualChange[int](0)": "0",
    "[]string(nil)": "[]",
    "([]string)(nil)": "[]",
    "defaultNumTaskQueuePartitions": "4",
}


def declared(root: Path) -> Iterator[Setting]:
    """Yield every key that the sources declare."""
    for path in sorted(root.rglob("*.go")):
        if path.name.endswith("_test.go") or path.name in ("setting_gen.go", "setting.go"):
            continue
        source = _COMMENT.sub("", path.read_text("utf-8"))
        for found in _DECLARED.finditer(source):
            arguments = [each for each in _arguments(source, found.end()) if each]
            if arguments[0].startswith('"'):
                default = _default(arguments[2 if found[3] else 1], is_span=found[2] == "Duration")
                yield Setting(arguments[0].strip('"'), found[1], found[2], default, "?")


def _arguments(source: str, at: int) -> list[str]:
    """Return the arguments of a call, given the position after its opening parenthesis."""
    found, begin, depth, quote = [], at, 0, ""
    while True:
        char = source[at]
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"`'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}" and depth:
            depth -= 1
        elif char in ",)" and not depth:
            found.append(source[begin:at].strip())
            begin = at + 1
            if char == ")":
                return found
        at += 1


def _default(text: str, *, is_span: bool) -> str:
    """Return the default as it would be configured; empty for a structure."""
    text = re.sub(r"//.*$", "", text, flags=re.MULTILINE).strip()
    text = _CONSTANTS.get(text, text).replace("debug.TimeoutMultiplier", "1")
    if text in ("true", "false", "[]"):
        return text
    if re.fullmatch(r'"[^"]*"', text):
        return text
    number = re.sub(r"time\.(\w+)", lambda unit: str(_UNITS.get(unit[1], "?")), text)
    if not re.fullmatch(r"[\d_.*+\- ]+", number):
        return ""
    value = eval(number)  # noqa: S307 - digits and operators alone
    return _span(int(value)) if is_span or "time." in text else str(value)


def _span(nanoseconds: int) -> str:
    for name, unit in (("h", "Hour"), ("m", "Minute"), ("s", "Second"), ("ms", "Millisecond")):
        if nanoseconds and nanoseconds % _UNITS[unit] == 0:
            return f"{nanoseconds // _UNITS[unit]}{name}"
    return f"{nanoseconds / 10**9:g}s"


def main(path: str) -> int:
    known = {setting.key: setting.why for setting in settings()} if FILE.is_file() else {}
    found = {setting.key: setting for setting in declared(Path(path))}
    write(
        Setting(each.key, each.scope, each.kind, each.default, known.get(each.key, each.why))
        for each in sorted(found.values(), key=lambda setting: setting.key.lower())
    )
    for key in sorted(known.keys() - found):
        print(f"gone: {key}")
    for key in sorted(found.keys() - known):
        print(f"new: {key}")
    print(f"{len(found)} keys, in columns {', '.join(COLUMNS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
