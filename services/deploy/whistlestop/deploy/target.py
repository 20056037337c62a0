"""The interpreter and architecture for which a bundle is built, and the resulting options for pip."""

from __future__ import annotations

import platform
import sys

from whistlestop.common.lazy_dataclasses import dataclass

FUNCTIONS = ("frontend", "history", "matching")
_MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
_AMAZON_LINUX_2023 = (3, 12)
"""Lambda's Python runtimes from this version on run on Amazon Linux 2023, older ones on Amazon Linux 2."""
_GLIBC_OF_AL2, _GLIBC_OF_AL2023 = 26, 34


@dataclass(frozen=True, slots=True)
class Target:
    """A Lambda runtime, such as `python3.13`, and an architecture: `arm64` or `x86_64`."""

    runtime: str
    architecture: str

    def __post_init__(self) -> None:
        if self.architecture not in _MACHINES:
            raise ValueError(f"architecture {self.architecture!r} is none of {', '.join(sorted(_MACHINES))}")
        name, _, number = self.runtime.partition("3.")
        if name != "python" or not number.isdigit() or int(number) < 11:
            raise ValueError(f"runtime {self.runtime!r} is not of the form python3.N with N from 11 on")

    @property
    def version(self) -> tuple[int, int]:
        return 3, int(self.runtime.removeprefix("python3."))

    @property
    def is_here(self) -> bool:
        """Whether this interpreter can run the bundle."""
        return self == here()

    def pip_options(self) -> list[str]:
        """Return pip's options, with every platform tag that the runtime's C library supports, the newest first."""
        machine = _MACHINES[self.architecture]
        newest = _GLIBC_OF_AL2023 if self.version >= _AMAZON_LINUX_2023 else _GLIBC_OF_AL2
        tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 16, -1)] + [f"manylinux2014_{machine}"]
        platforms = [option for tag in tags for option in ("--platform", tag)]
        return [*platforms, "--python-version", f"3.{self.version[1]}", "--implementation", "cp", "--only-binary=:all:"]

    def uv_options(self) -> list[str]:
        """Return the options for uv, which derives the older tags itself."""
        newest = _GLIBC_OF_AL2023 if self.version >= _AMAZON_LINUX_2023 else _GLIBC_OF_AL2
        tag = f"{_MACHINES[self.architecture]}-manylinux_2_{newest}"
        return ["--python-version", f"3.{self.version[1]}", "--python-platform", tag, "--only-binary", ":all:"]


def here() -> Target:
    """Return the target that matches this interpreter and machine."""
    machine = {"aarch64": "arm64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return Target(f"python3.{sys.version_info.minor}", machine)
