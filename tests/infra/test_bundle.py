"""Bundles: what they hold, how large they are, how fast a handler is imported from one, and that they are reproducible."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from infra.localstack.environment import ensure

from tests.imports import MOST_RATIO, compare
from whistlestop.deploy.bundle import DEFAULT, bundle, pack, size
from whistlestop.deploy.target import FUNCTIONS, Target, here

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.timeout(600)]

MOST_BYTES = 60_000_000
UNAVOIDABLE = ("temporalio.api.workflowservice.v1", "psycopg", "psycopg_pool")
_MEASURE = """
import importlib, json, sys, time
sys.path.insert(0, sys.argv[1])
began = time.process_time()
for name in sys.argv[2:]:
    importlib.import_module(name)
used = time.process_time() - began
print(json.dumps({"cpu_ms": used * 1000, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For this interpreter."""
    folder = tmp_path_factory.mktemp("bundles")
    for function in FUNCTIONS:
        bundle(function, here(), folder / function)
    return folder


def measure(folder: Path, *modules: str) -> dict[str, Any]:
    """Import from the bundle, in an interpreter that has nothing but what Lambda's runtimes have."""
    python = ensure("runtime") / "python"
    done = subprocess.run(
        [str(python), "-I", "-c", _MEASURE, str(folder), *modules], check=True, capture_output=True, text=True
    )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_handler_is_imported_in_time(
    bundles: Path, function: str, record_property: Callable[[str, object], None]
) -> None:
    """Count what its first call imports as well: the Postgres adapter, and what calls AWS."""
    folder = bundles / function
    names = (f"whistlestop.{function}.lambda_function", "whistlestop.storage.postgres.store", "whistlestop.net.aws")
    compared = compare(lambda: measure(folder, *names), lambda: measure(folder, *UNAVOIDABLE), MOST_RATIO["postgres"])
    record_property("ratio, MB, modules", str(compared))
    assert compared.ratio < MOST_RATIO["postgres"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_bundle_holds_its_function_and_no_other(bundles: Path, function: str) -> None:
    folder = bundles / function
    assert size(folder) < MOST_BYTES
    assert sorted(path.name for path in (folder / "whistlestop").iterdir()) == sorted(
        ("common", "functions", "net", "storage", function)
    )
    assert sorted(path.name for path in (folder / "temporalio").iterdir() if path.name != "__pycache__") == [
        "__init__.py", "api",
    ]  # fmt: skip
    names = {path.name for path in folder.iterdir()}
    assert names & {"grpc", "pydantic", "boto3", "botocore", "nexusrpc"} == set()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_module_of_a_bundle_can_be_imported(bundles: Path, function: str) -> None:
    """What a late import needs is there as well: Powertools, backups of Postgres, the alarm, JWTs and their signatures."""
    folder = bundles / function
    ours = sorted(
        ".".join(path.relative_to(folder).with_suffix("").parts)
        for path in (folder / "whistlestop").rglob("*.py")
        if path.name != "__init__.py"
    )
    measure(
        folder, *ours, "aws_lambda_powertools.logging.formatter", "jwt", "cryptography.hazmat.primitives.asymmetric.rsa"
    )


def test_a_bundle_is_reproducible(bundles: Path, tmp_path: Path) -> None:
    """To the byte, bytecode included."""
    pack(bundles / "history", tmp_path / "first.zip")
    bundle("history", here(), tmp_path / "again")
    pack(tmp_path / "again", tmp_path / "second.zip")
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()


def test_the_bundle_for_aws_can_be_made_here(tmp_path: Path) -> None:
    """Compiled for the template's defaults, whatever this machine is."""
    assert Target("python3.13", "arm64") == DEFAULT
    bundle("frontend", DEFAULT, tmp_path / "frontend")
    compiled = [path.name for path in (tmp_path / "frontend" / "psycopg_binary").glob("*.so")]
    assert compiled
    assert all("cpython-313-aarch64" in name for name in compiled)
    assert size(tmp_path / "frontend") < MOST_BYTES


@pytest.mark.parametrize(
    ("runtime", "architecture"), [("python3.13", "mips"), ("python2.7", "arm64"), ("3.13", "arm64")]
)
def test_libraries_missing_in_lambda_are_refused(runtime: str, architecture: str) -> None:
    with pytest.raises(ValueError, match="is n"):
        Target(runtime, architecture)
