"""Every third-party import is of a package that pyproject.toml declares: for users, or for developers alone."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
OURS = {"whistlestop", "tests", "infra", "examples", "benchmarks"}
ELSEWHERE = {"localstack", "plux", "awslambdaric", "crontab"}
"""Of environments that `infra.localstack` makes for itself; its requirement files declare them."""
OF_GROUPS = {name: [name] for name in ("aiohttp", "alembic", "atheris", "grpclib", "sqlglot", "yoyo-migrations")} | {
    "connectrpc": ["connect-python"],
}
"""Of dependency groups that only `make long` and benchmarks install."""


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@cache
def declared() -> tuple[set[str], set[str]]:
    """Return the packages that users install, and those besides that developers do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    users = {_name(each) for each in project["project"]["dependencies"]}
    for extra in project["project"].get("optional-dependencies", {}).values():
        users |= {_name(each) for each in extra}
    groups = project["dependency-groups"]
    return users, {_name(each) for group in ("dev", "fuzz", "rivals") for each in groups[group]}


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level names that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def undeclared(patterns: tuple[str, ...], packages: set[str]) -> list[str]:
    """Return `file: import` for each import of a package that is not among `packages`."""
    homes = {**OF_GROUPS, **packages_distributions()}
    found: list[str] = []
    for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern)}):
        beside = {each.stem for folder in (path.parent, path.parent.parent) for each in folder.iterdir()}
        others = sorted(set(imports(path)) - OURS - ELSEWHERE - sys.stdlib_module_names - beside)
        unknown = [name for name in others if not {_name(each) for each in homes.get(name, [])} & packages]
        found.extend(f"{path.relative_to(ROOT)}: {name}" for name in unknown)
    return found


def test_code_for_users_imports_only_declared_dependencies() -> None:
    users, _ = declared()
    assert undeclared(("services/**/*.py", "storage/**/*.py", "examples/**/*.py"), users) == []


def test_code_for_developers_imports_only_declared_dependencies() -> None:
    users, developers = declared()
    assert undeclared(("tests/**/*.py", "infra/**/*.py", "benchmarks/**/*.py"), users | developers) == []


def test_an_import_that_is_not_declared_is_found() -> None:
    users, _ = declared()
    assert "services/deploy/whistlestop/deploy/template.py: yaml" in undeclared(
        ("services/deploy/**/*.py",), users - {"pyyaml"}
    )
