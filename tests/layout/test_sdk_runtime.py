"""A runtime of the SDK is never destroyed while a test process runs: its destructor can wait for ever."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHED = {"cache", "functools.cache"}


def _temporary_runtimes(tree: ast.AST, where: str) -> list[str]:
    """Return the calls of `Runtime(...)` in functions whose result nothing keeps."""
    found = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if any(ast.unparse(decorator) in CACHED for decorator in function.decorator_list):
            continue
        found += [
            f"{where}:{call.lineno}"
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "Runtime"
        ]
    return found


def test_runtimes_live_as_long_as_their_process() -> None:
    found = []
    for folder in ("tests", "examples", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "temporalio.runtime" in text:
                found += _temporary_runtimes(ast.parse(text), str(path.relative_to(ROOT)))
    assert found == []


def test_a_temporary_runtime_is_found() -> None:
    code = "def connect():\n    return Client(Runtime(telemetry=None))\n"
    assert _temporary_runtimes(ast.parse(code), "x.py") == ["x.py:2"]
