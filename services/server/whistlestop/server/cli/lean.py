"""Starting with less than all that is installed.

Temporal's API is a part of its SDK, whose packages import much that a server has no use for: the package `temporalio`
its native library, and each package of messages the stubs of grpcio. Here these packages are made without running them,
so that the modules of messages alone are imported. Whoever asks such a package for anything else has it run after all.
Protobuf's messages in Python, which it imports although they are made in C, are left alone in the same way.
Protobuf in Python, which protobuf imports although it runs in C, is left alone in the same way.
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
    """From now on import of Temporal's SDK its modules of messages alone, without grpcio: 9 MB and a lot of CPU less.

    Nothing is changed in a process that has imported the SDK already.
    """
    if "grpc" not in sys.modules:
        sys.modules["grpc"] = None  # type: ignore[assignment]  # Python's way to say that a module is not to be had
    if _SDK not in sys.modules:
        sys.meta_path.insert(0, _Unneeded())


class _Unneeded:
    """Finds what is not to be run: `temporalio`, the packages below `temporalio.api`, messages in Python."""

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
    """A loader that runs a module only when somebody asks for what is in it (and not a module of messages below it)."""

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
