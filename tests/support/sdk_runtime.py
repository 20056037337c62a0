"""The SDK's runtime for tests that do not want its log."""

from __future__ import annotations

import functools

from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter


@functools.cache
def quiet_runtime() -> Runtime:
    """Return a runtime that writes no log, for tests that break connections on purpose.

    It lives as long as the process. The destructor of a runtime waits for its threads while it holds the interpreter
    lock; a thread that is about to hand over the result of a call waits for that lock, and both wait for ever.
    """
    quiet = TelemetryFilter(core_level="OFF", other_level="OFF")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=quiet)))
