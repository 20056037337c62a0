"""Build the functions' bundles from a checkout: `python -m infra.bundle --help`. SAM's builds call it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Put the source roots of the checkout first, so that it need not be installed.
sys.path[:0] = [str(path) for path in (*sorted((ROOT / "services").iterdir()), ROOT / "storage") if path.is_dir()]
os.environ.setdefault("WHISTLESTOP_BUNDLE_CACHE", str(ROOT / "build" / "bundle"))

from whistlestop.deploy.bundle import DEFAULT, BundleError, bundle, pack, size  # noqa: E402 - as said above
from whistlestop.deploy.target import FUNCTIONS, Target  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.bundle", description=__doc__)
    parser.add_argument("functions", nargs="*", metavar="function", help=f"of {', '.join(FUNCTIONS)}; by default all")
    parser.add_argument("--runtime", default=DEFAULT.runtime, help="Lambda runtime (%(default)s)")
    parser.add_argument("--architecture", default=DEFAULT.architecture, help="arm64 or x86_64 (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "functions", help="folder of the bundles")
    parser.add_argument("--exactly", action="store_true", help="one function: --output itself becomes its bundle")
    parser.add_argument("--zip", action="store_true", help="also write <function>.zip")
    given = parser.parse_args(arguments)
    functions: list[str] = given.functions or list(FUNCTIONS)
    unknown = sorted(set(functions) - set(FUNCTIONS))
    if unknown:
        parser.error(f"no such function: {', '.join(unknown)}")
    if given.exactly and len(functions) != 1:
        parser.error("--exactly takes one function")
    try:
        target = Target(given.runtime, given.architecture)
    except ValueError as error:
        parser.error(str(error))
    for function in functions:
        folder: Path = given.output if given.exactly else given.output / function
        try:
            compiled = bundle(function, target, folder)
        except BundleError as error:
            parser.exit(1, f"{error}\n")
        if not compiled:
            print(f"no {target.runtime} here: built without bytecode, and starts more slowly", file=sys.stderr)
        print(f"{function}: {size(folder) / 1e6:.1f} MB in {folder}")
        if given.zip:
            pack(folder, folder.with_suffix(".zip"))
    return 0


sys.exit(main())
