"""Fuzz one target, or all: `python -m tests.fuzz TARGET|all [SECONDS]`.

Inputs that reach something new go to `.fuzz/TARGET`, and serve again. `python -m tests.fuzz TARGET FILE` runs one file.
What finds a fault is put in `corpus/TARGET` with the fix; `test_corpus.py` runs those with every other test.
"""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import whistlestop.frontend

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_SECONDS = 60
_MOST_BYTES = 16 * 1024


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["whistlestop", "google.protobuf.json_format"]):
        from tests.fuzz import targets

        # What a server imports when it is first needed.
        for module in pkgutil.walk_packages(whistlestop.frontend.__path__, "whistlestop.frontend."):
            importlib.import_module(module.name)

    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[name])
    atheris.Fuzz()


def fuzz_for(name: str, seconds: int) -> int:
    """Fuzz in another process; its exit code."""
    found = ROOT / ".fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    seeds = HERE / "corpus" / name
    seeds.mkdir(parents=True, exist_ok=True)
    print(f"== {name}", flush=True)
    return subprocess.run(
        [
            sys.executable, "-m", "tests.fuzz", "--in-process", name, str(found), str(seeds), f"-max_total_time={seconds}",
            f"-max_len={_MOST_BYTES}", "-timeout=10", "-rss_limit_mb=4096", f"-artifact_prefix={found.parent}/{name}-",
            "-print_final_stats=1",
        ],
        cwd=ROOT, check=False,
    ).returncode  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run what the arguments say."""
    if arguments[0] == "--in-process":
        fuzz(arguments[1], arguments[2:])
        return 0
    if len(arguments) > 1 and Path(arguments[1]).is_file():
        from tests.fuzz.targets import TARGETS

        TARGETS[arguments[0]](Path(arguments[1]).read_bytes())
        return 0
    seconds = int(arguments[1]) if len(arguments) > 1 else _SECONDS
    names = [arguments[0]]
    if arguments[0] == "all":
        from tests.fuzz.targets import TARGETS

        names = list(TARGETS)
    return max([fuzz_for(name, seconds) for name in names])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
