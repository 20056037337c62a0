"""The papers of the project hold together: decision records have one form, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PAGES = [*RECORDS, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/glossary.md"))]
PACKAGES = ("bridge", "common", "deploy", "frontend", "functions", "history", "matching", "net", "server")
FOLDERS = (*PACKAGES, "services", "storage", "tests", "infra", "docs", "benchmarks", "examples")
BESIDE = [ROOT, ROOT / "storage/whistlestop", *(ROOT / "services" / name / "whistlestop" for name in PACKAGES)]
"""Where a path in a page may begin."""


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_decision_record_has_its_sections(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith(f"# {int(path.name[:4])}. ")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert {"Context", "Options", "Decision"} <= set(headings)
    assert {"What would change it", "When to look again", "Consequences"} & set(headings)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    """Links are relative to their page; paths in backquotes are the repository's, or a package's without its root."""
    text = path.read_text("utf-8")
    links = re.findall(r"\]\(((?!http|#)[^)#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*\w)(?:::\w+)?`", text)
    assert [name for name in named if not any((folder / name).exists() for folder in BESIDE)] == []


def test_terms_are_explained_once() -> None:
    """A term stands in one row of the glossary, and no house word is a term of the project."""
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    terms = {name: re.findall(r"^\| (?!-)([^|]+?) \|", part, re.MULTILINE)[1:] for name, part in sections.items()}
    assert all(len(rows) > 10 for rows in terms.values())
    words = [word for rows in terms.values() for row in rows for word in re.split(r"[,;] ", row)]
    assert sorted(words) == sorted(set(words))


def test_hooks_and_the_workflow_run_what_ci_runs() -> None:
    """By the same commands, so that nobody has to keep two lists."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = {hook["id"]: hook["entry"] for hook in hooks[0]["hooks"]}
    assert (entries["lint"], entries["ci"]) == ("make lint", ".ci/run")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == ".ci/run"
    assert min(job["strategy"]["matrix"]["python"]) == "3.11"


def test_the_changelog_begins_with_what_is_not_released_yet() -> None:
    versions = re.findall(r"^## \[(.+?)\](?:: (\S+))?", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert [name for name, _ in versions] == ["Unreleased", "0.1.0"]
    from whistlestop.server.release import VERSION

    assert versions[0][1] == VERSION


def test_recipes_name_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"`(?:\.venv/bin/)?make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    assert named - targets == set()


def test_every_metric_is_in_the_operators_table() -> None:
    """And nothing else is."""
    from whistlestop.server.metrics.exposition import text_of
    from whistlestop.server.metrics.prometheus import PrometheusMetrics

    metrics = PrometheusMetrics()
    metrics.watch_polls(dict, lambda: 0)
    metrics.watch_loops(dict)
    served = set(re.findall(r"^# TYPE (whistlestop_\w+)", text_of(metrics)().decode(), re.MULTILINE))
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert served == set(re.findall(r"^\| `(whistlestop_\w+)` \|", page, re.MULTILINE))
