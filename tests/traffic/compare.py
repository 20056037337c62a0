"""Compare what two servers answered to a suite: which fields, events and refusals only one of them has.

    python -m tests.traffic.compare REAL OURS [--least 3]

REAL and OURS are files of counts or directories with some. A field counts as left out only if the other server sent the
message that should have it at least `--least` times. The exit code is 1 if a difference does not stand in `EXPECTED`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.traffic.expected import EXPECTED

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVENT = re.compile(r"event \S+ ")


def load(path: Path) -> Counter[str]:
    """Return the sum of the counts in the file, or in all files below the directory."""
    total: Counter[str] = Counter()
    for file in sorted(path.rglob("*.json")) if path.is_dir() else (path,):
        total.update(json.loads(file.read_text()))
    return total


def parent_of(path: str) -> str:
    """Return the path of the message that holds this field; empty for that of a reply, an event or a refusal."""
    event = _EVENT.match(path)
    head = event.group() if event is not None else path.partition(" ")[0] + " "
    rest = path.removeprefix(head)
    if rest.startswith("!"):
        code, _, within = rest.partition(" ")
        if not within:
            return ""
        head, rest = f"{head}{code}", within
        return f"{head} {rest.rpartition('.')[0]}" if "." in rest else head
    if not rest:
        return ""
    return head + rest.rpartition(".")[0] if "." in rest else head


def differences(real: Counter[str], ours: Counter[str], least: int) -> Iterator[tuple[str, str, str]]:
    """Yield who has a path alone, the path, and how often it and its message were there."""
    for who, mine, theirs in (("real", real, ours), ("ours", ours, real)):
        for path in sorted(mine.keys() - theirs.keys()):
            parent = parent_of(path)
            if parent and theirs[parent] < least:
                continue  # the other server had no such message, or too few to judge
            if not parent and mine[path] < least:
                continue  # a single refusal or event of this kind may be a race's
            yield who, path, f"{mine[path]} of {mine[parent] or '-'} against none of {theirs[parent] or '-'}"


def reason_for(who: str, path: str) -> str:
    """Return why this difference is expected; empty when it is not."""
    for pattern, why in EXPECTED.items():
        side, _, shape = pattern.partition(": ")
        if side in (who, "either") and fnmatch.fnmatchcase(path, shape):
            return why
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("real", type=Path)
    parser.add_argument("ours", type=Path)
    parser.add_argument("--least", type=int, default=3, help="messages that the other side must have sent (3)")
    parser.add_argument("--all", action="store_true", help="show expected differences, too")
    asked = parser.parse_args()
    real, ours = load(asked.real), load(asked.ours)
    print(f"{len(real.keys() & ours.keys())} paths are common")
    unexpected = 0
    for who, path, shown in differences(real, ours, asked.least):
        why = reason_for(who, path)
        unexpected += not why
        if asked.all or not why:
            print(f"only {who}: {path} ({shown}){': ' + why if why else ''}")
    sys.exit(1 if unexpected else 0)


if __name__ == "__main__":
    main()
