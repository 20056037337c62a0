"""Start without importing all that is installed.

Temporal's API is part of its SDK, whose packages import much that a server does not use: the package `temporalio` its
native library, and each package of messages the stubs of grpcio. Here these packages are created without running
them, so that only the modules of messages are imported. If anything else of such a package is used, it is run after
all. The Python implementation of protobuf messages, which protobuf imports although it runs in C, is postponed in the
same way.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

_SDK = "temporalio"
_IN_PYTHON = "google.protobuf.internal.python_message"
_MODULES_OF_MESSAGES = ("_pb2", "_pb2_grpc")


def import_messages_alone() -> None:
    """From now on, import only the message modules of Temporal's SDK, without grpcio: this saves 9 MB and much CPU.

    It has no effect on what the process has already imported.
    """
    if "grpc" not in sys.modules:
        sys.modules["grpc"] = None  # type: ignore[assignment]  # None makes the import fail
    if _SDK not in sys.modules:
        sys.meta_path.insert(0, _Unneeded())


class _Unneeded:
    """Finds the modules that are not to be run: `temporalio`, packages below `temporalio.api`, messages in Python."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name not in (_SDK, _IN_PYTHON) and not name.startswith("temporalio.api"):
            return None
        if name.endswith(_MODULES_OF_MESSAGES):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and (spec.submodule_search_locations is not None or name == _IN_PYTHON):
            spec.loader = _Postponed(spec.loader)  # type: ignore[assignment]  # has what the import system calls
        return spec


class _Postponed:
    """A loader that runs a module only when something in it (other than a module of messages) is used."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unrun(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["_postponed"] = self._loader


class _Unrun(ModuleType):
    """A package or module that has not been run yet."""

    def __getattr__(self, name: str) -> Any:
        loader = vars(self).get("_postponed")
        if loader is None or name.startswith("__") or name.endswith(_MODULES_OF_MESSAGES):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        del vars(self)["_postponed"]
        loader.exec_module(self)
        return getattr(self, name)
