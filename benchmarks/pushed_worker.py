"""The fourth function of `functions.py`: an invocation of the worker that we ship, measured.

    python benchmarks/pushed_worker.py <timeout in seconds>

It prints the figures as JSON: seconds and CPU of the handler, and CPU of the imports before it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from temporalio.common import VersioningBehavior  # noqa: E402 - needs the path


class _Context:
    """The context of the invocation."""

    aws_request_id = "counted"
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:worker"

    def __init__(self, timeout_s: float) -> None:
        self._ends_s = time.monotonic() + timeout_s

    def get_remaining_time_in_millis(self) -> int:
        return int((self._ends_s - time.monotonic()) * 1000)


def pinned(kind: type) -> type:
    """Return the workflow class with a versioning behavior, as a versioned worker requires."""
    name = "__temporal_workflow_definition"
    definition = getattr(kind, name)
    setattr(kind, name, dataclasses.replace(definition, versioning_behavior=VersioningBehavior.PINNED))
    return kind


def main() -> None:
    """Run the handler once."""
    from benchmarks.functions import Echo, Nap, shout
    from tests.bridge import programs

    program = types.ModuleType("program")
    kinds = [Echo, Nap, programs.Order, programs.Parcel]
    vars(program).update(WORKFLOWS=[pinned(kind) for kind in kinds], ACTIVITIES=[shout, programs.charge])
    sys.modules["program"] = program
    found = importlib.util.spec_from_file_location("handler", ROOT / "infra" / "worker" / "handler.py")
    assert found is not None
    assert found.loader is not None
    handler = importlib.util.module_from_spec(found)
    found.loader.exec_module(handler)
    logging.getLogger("temporalio.activity").setLevel(logging.ERROR)
    init_cpu_s, began_s, began_cpu_s = time.process_time(), time.perf_counter(), time.process_time()
    handler.handler({}, _Context(float(sys.argv[1])))
    print(json.dumps({
        "seconds": time.perf_counter() - began_s, "cpu_s": time.process_time() - began_cpu_s, "init_cpu_s": init_cpu_s,
    }), flush=True)  # fmt: skip
    # Lambda freezes a process instead of ending it, so the shutdown of the SDK's threads is not measured.
    os._exit(0)


if __name__ == "__main__":
    main()
