"""A cold start is mostly imports: each handler's have a ceiling, and leave out what its bundle does not hold.

The ceiling is a ratio to the imports that no handler can avoid (Temporal's messages and the database driver), measured
in turns in the same run, so that a slow or busy machine slows both. Counts of modules and memory are absolute.

Measured as in a bundle (see `tests.functions.instance`): of `temporalio` the `api` part alone, since its parent package
loads the SDK's native library; no `grpc`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.functions.instance import FUNCTIONS
from tests.imports import MOST_RATIO, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_MEMORY_MB = 80
STORES = ("sqlite", "postgres")
UNAVOIDABLE = {
    "sqlite": ("temporalio.api.workflowservice.v1", "sqlite3"),
    "postgres": ("temporalio.api.workflowservice.v1", "psycopg", "psycopg_pool"),
}
MOST_MODULES = {"sqlite": 600, "postgres": 735}
_MEASURE = """
import importlib, json, sys, time
from tests.functions.instance import as_in_a_bundle
as_in_a_bundle()
began = time.process_time()
for name in sys.argv[1:]:
    importlib.import_module(name)
used = time.process_time() - began
memory_kb = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
print(json.dumps({"cpu_ms": used * 1000, "memory_mb": memory_kb / 1024, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module", autouse=True)
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have bytecode written and read, as in a bundle, whatever the environment says of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


def measure(*names: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", _MEASURE, *names], check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_handler_is_imported_in_time(
    function: str, store: str, record_property: Callable[[str, object], None]
) -> None:
    """Count what its first call imports as well: the storage adapter, and what calls AWS."""
    names = (f"whistlestop.{function}.lambda_function", f"whistlestop.storage.{store}.store", "whistlestop.net.aws")
    compared = compare(lambda: measure(*names), lambda: measure(*UNAVOIDABLE[store]), MOST_RATIO[store])
    record_property("ratio, MB, modules", str(compared))
    assert compared.ratio < MOST_RATIO[store]
    assert compared.memory_mb < MOST_MEMORY_MB
    assert compared.modules < MOST_MODULES[store]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_handler_imports_no_other_function_and_nothing_heavy(function: str) -> None:
    """No gRPC, no part of the SDK but the API, no other service, and neither store before it is chosen."""
    modules = measure(f"whistlestop.{function}.lambda_function")["modules"]
    others = {f"whistlestop.{other}" for other in (*FUNCTIONS, "server", "bridge") if other != function}
    unwanted = {
        "grpc", "pydantic", "boto3", "botocore", "jwt", "cryptography", "aws_lambda_powertools", "sqlglot", "psycopg", "sqlite3",
        "whistlestop.storage.sqlite", "whistlestop.storage.postgres", *others,
    }  # fmt: skip
    assert unwanted.intersection(modules) == set()
    assert [name for name in modules if name.startswith("temporalio.") and name.split(".")[1] != "api"] == []
