"""The import namespace `whistlestop` is put together from several roots (PEP 420): one stray file would hide the rest."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PORTIONS = sorted(
    path
    for pattern in ("services/*/whistlestop", "storage/whistlestop")
    for path in ROOT.glob(pattern)
    if any(path.glob("*/*.py"))
)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_no_root_has_a_package_file() -> None:
    """`whistlestop/__init__.py` stands nowhere."""
    assert [path for path in PORTIONS if (path / "__init__.py").exists()] == []


def test_every_portion_is_built_into_the_wheel() -> None:
    """A new root has to be named in pyproject.toml, or its code would be missing from the wheel."""
    wheel = project()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(wheel["packages"]) == [str(path.relative_to(ROOT)) for path in PORTIONS]
    assert sorted(wheel["dev-mode-dirs"]) == [str(path.parent.relative_to(ROOT)) for path in PORTIONS]


def test_every_portion_is_checked_by_import_contracts() -> None:
    """Each portion holds one package, of its folder's name, and import-linter knows it."""
    packages = [
        f"whistlestop.{child.name}"
        for path in PORTIONS
        for child in path.iterdir()
        if child.is_dir() and child.name != "__pycache__"
    ]
    assert sorted(packages) == sorted(project()["tool"]["importlinter"]["root_packages"])


def test_every_package_is_typed() -> None:
    """`py.typed` stands in each package, so that users' type checkers read ours."""
    missing = [
        str(child.relative_to(ROOT))
        for path in PORTIONS
        for child in path.iterdir()
        if child.is_dir() and child.name != "__pycache__" and not (child / "py.typed").exists()
    ]
    assert missing == []


def test_no_other_code_root() -> None:
    """Code stands in the roots of the design and nowhere else."""
    allowed = {"services", "storage", "infra", "tests", "examples", "benchmarks", "docs"}
    found = {
        path.relative_to(ROOT).parts[0]
        for path in ROOT.glob("*/**/*.py")
        if not path.relative_to(ROOT).parts[0].startswith((".", "dist", "build"))
    }
    assert found - allowed == set()
