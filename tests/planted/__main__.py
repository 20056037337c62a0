"""Plant each defect of `defects.toml` and print by what it is found: `python -m tests.planted [--only NAME] [--jobs 2]`.

First the sources as they are have to pass the same seeds. Exit code 1 when a defect is not found.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.planted import plant


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="defects with this in their name")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    missed = 0
    print("| defect | found by | after seeds | in | what it said |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="whistlestop-planted-") as name:
        folder = Path(name)
        plant.copy_sources(folder)
        for defect in plant.defects():
            if options.only in defect.name:
                finding = plant.hunt(defect, folder, options.first, options.seeds, options.jobs)
                missed += not finding.found_by
                print(finding.row(), flush=True)
    return min(missed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
