"""Release 0.1.0, built once for all tests of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.conftest import cluster  # noqa: F401 - a fixture
from tests.upgrade.release import RELEASE_0_1_0, Release, build

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def old_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder: Path = tmp_path_factory.mktemp("release-0.1.0")
    return build(RELEASE_0_1_0, folder)
