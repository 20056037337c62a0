"""The modules of history's methods are imported by their first calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from whistlestop.history import api

_FIND = """
import importlib, json, sys
from whistlestop.history import api
found = {}
for module in sys.argv[1:]:
    imported = importlib.import_module(f"{api.__name__}.{module}")
    api.METHODS.clear()
    importlib.reload(imported)
    found |= dict.fromkeys(api.METHODS, module)
print(json.dumps(found))
"""


def test_each_method_is_in_the_module_of_the_table() -> None:
    (folder,) = api.__path__
    files = [path.relative_to(folder).with_suffix("") for path in Path(folder).rglob("*.py") if path.stem != "__init__"]
    modules = sorted(".".join(path.parts) for path in files)
    done = subprocess.run([sys.executable, "-c", _FIND, *modules], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found == api.MODULE_OF, "_METHODS_OF of history/api/__init__.py must name each method under its module"


def test_an_unknown_method_is_refused() -> None:
    assert api.handler_of("NoSuchMethod") is None
