"""What the lock files pin is what pyproject.toml asks for: `make` and the container install nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GROUPS = PROJECT["dependency-groups"]
ASKED = {
    "dev": [*PROJECT["project"]["dependencies"], *GROUPS["dev"]],
    "server": PROJECT["project"]["dependencies"],
    "build": GROUPS["build"],
}


def pinned(name: str) -> dict[str, list[str]]:
    """Return the versions of each package in a lock; several where they depend on the platform."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "infra" / "locks" / f"{name}.lock").read_text("utf-8")
    for package, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(package), []).append(version)
    return found


@pytest.mark.parametrize("name", sorted(ASKED))
def test_every_requirement_is_pinned_to_a_version_that_it_allows(name: str) -> None:
    """Run `make lock` after a change of the dependencies in pyproject.toml."""
    versions = pinned(name)
    wrong = []
    for text in ASKED[name]:
        asked = Requirement(text)
        found = versions.get(canonicalize_name(asked.name), [])
        if not found or not all(asked.specifier.contains(version) for version in found):
            wrong.append(f"{text}: {found}")
    assert wrong == []


@pytest.mark.parametrize("name", sorted(ASKED))
def test_every_pin_has_hashes_and_no_index_is_named(name: str) -> None:
    text = (ROOT / "infra" / "locks" / f"{name}.lock").read_text("utf-8")
    entries = [entry for entry in re.split(r"\n(?=[^\s#])", text) if not entry.startswith("#")]
    assert len(entries) == sum(map(len, pinned(name).values())) > 0
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text


def test_the_container_gets_the_versions_that_tests_ran_with() -> None:
    tests, server = pinned("dev"), pinned("server")
    assert {name: tests.get(name) for name in server} == server


def test_the_build_backend_is_the_one_that_pyproject_names() -> None:
    assert GROUPS["build"] == PROJECT["build-system"]["requires"]
