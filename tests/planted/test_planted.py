"""The planted defects fit the sources, and some of them are hunted down here; all of them by `make long`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.planted import plant

if TYPE_CHECKING:
    from pathlib import Path

QUICK = ("acknowledged before the commit",)


def test_each_defect_fits_the_sources(tmp_path: Path) -> None:
    found = plant.defects()
    assert len(found) >= 20
    assert len({defect.name for defect in found}) == len(found)
    for defect in found:
        for number, edit in enumerate(defect.edits):
            if not any(other.file == edit.file for other in defect.edits[:number]):
                (tmp_path / edit.file).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / edit.file).write_text((plant.HOME / edit.file).read_text())
            edit.apply(tmp_path)
            compile((tmp_path / edit.file).read_text(), edit.file, "exec")


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_defect_is_found(name: str, tmp_path: Path) -> None:
    plant.copy_sources(tmp_path)
    defect = next(defect for defect in plant.defects() if defect.name == name)
    finding = plant.hunt(defect, tmp_path, 0, 300, 1)
    assert finding.found_by.startswith("simulation, seed "), finding
