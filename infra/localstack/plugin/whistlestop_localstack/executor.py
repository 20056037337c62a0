"""Make LocalStack's Lambda run functions as processes, with LAMBDA_RUNTIME_EXECUTOR=process.

LAMBDA_PROCESS_PYTHON is the interpreter: that of an environment with only awslambdaric and boto3, like Lambda's own
runtimes. LAMBDA_CLOCK_AHEAD_FILE, if set, is a file with the number of seconds that functions' clocks are ahead.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from plux import Plugin

from .process import Code, Environment, StartFailed, lambda_error
from .runtime_api import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOG_DRAINS_S = 0.002


class ProcessExecutorPlugin(Plugin):  # type: ignore[misc]  # LocalStack is not installed for type checks
    """The entry point by which LocalStack finds the executor."""

    namespace = "localstack.lambda.runtime_executor"
    name = "process"

    def load(self, *args: object, **kwargs: object) -> type[Any]:
        return executor_class()


def code_of(version: Any, start_s: float) -> Code:
    """Return what a version of a function runs."""
    config = version.config
    return Code(
        interpreter=os.environ.get("LAMBDA_PROCESS_PYTHON", sys.executable),
        task_root=str(config.code.get_unzipped_code_location()),
        handler=config.handler,
        layers=[str(layer.code.get_unzipped_code_location()) for layer in reversed(config.layers or [])],
        timeout_s=config.timeout,
        start_s=start_s,
        clock_ahead_file=os.environ.get("LAMBDA_CLOCK_AHEAD_FILE", ""),
    )


def report(request_id: str, version: Any, lines: Sequence[str], took_ms: float) -> str:
    """Return the log of an invocation: the function's lines between those of Lambda."""
    said = f"RequestId: {request_id}"
    used = f"Duration: {took_ms:.2f} ms\tBilled Duration: {took_ms:.0f} ms"
    last = f"REPORT {said}\t{used}\tMemory Size: {version.config.memory_size} MB"
    return "\n".join((f"START {said} Version: {version.id.qualifier}", *lines, f"END {said}", last, ""))


@cache
def executor_class() -> type[Any]:
    """Define the executor's class on first use, when LocalStack's own modules can be imported."""
    from localstack import config as localstack_config
    from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
    from localstack.services.lambda_.invocation.lambda_models import InvocationResult
    from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

    class ProcessExecutor(RuntimeExecutor):  # type: ignore[misc]  # as above
        """One execution environment of a function."""

        def start(self, env_vars: dict[str, Any]) -> None:
            variables = {name: str(value) for name, value in env_vars.items()}
            variables["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{self.function_version.config.runtime}"
            code = code_of(self.function_version, localstack_config.LAMBDA_RUNTIME_ENVIRONMENT_TIMEOUT)
            self.environment = Environment(code, variables)
            try:
                self.environment.start()
            except StartFailed as failure:
                raise StatusErrorException("the runtime did not start", payload=failure.payload) from None

        def stop(self) -> None:
            self.environment.stop()

        def invoke(self, payload: dict[str, str]) -> Any:
            self.environment.log.clear()
            began_s = time.perf_counter()
            try:
                answer = self.environment.invoke(payload)
            except StartFailed as failure:
                answer = Answer(payload["invoke-id"], failure.payload, is_error=True)
            took_ms = (time.perf_counter() - began_s) * 1000
            answer = _within(localstack_config.LAMBDA_LIMITS_MAX_FUNCTION_PAYLOAD_SIZE_BYTES, answer)
            time.sleep(_LOG_DRAINS_S)
            logs = report(answer.request_id, self.function_version, tuple(self.environment.log), took_ms)
            return InvocationResult(payload["invoke-id"], answer.payload, is_error=answer.is_error, logs=logs)

        def get_logs(self) -> str:
            return "\n".join(tuple(self.environment.log))

        def get_address(self) -> str:
            return "127.0.0.1"

        def get_endpoint_from_executor(self) -> str:
            return "127.0.0.1"

        def get_runtime_endpoint(self) -> str:
            return f"http://127.0.0.1:{localstack_config.GATEWAY_LISTEN[0].port}/_localstack_lambda/{self.id}"

        @classmethod
        def prepare_version(cls, function_version: Any) -> None:
            config = function_version.config
            if not str(config.runtime or "").startswith("python"):
                raise NotImplementedError(f"functions run as processes of Python only, not of {config.runtime}")
            for code in (config.code, *(layer.code for layer in config.layers or ())):
                code.prepare_for_execution()

        @classmethod
        def cleanup_version(cls, function_version: Any) -> None:  # noqa: ARG003 - LocalStack passes it
            return None

    return ProcessExecutor


def _within(limit_bytes: int, answer: Answer) -> Answer:
    """Return the answer, or Lambda's error if it is too large."""
    size = len(answer.payload)
    if size <= limit_bytes:
        return answer
    text = f"Response payload size ({size} bytes) exceeded maximum allowed payload size ({limit_bytes} bytes)."
    return Answer(answer.request_id, lambda_error("Function.ResponseSizeTooLarge", text), is_error=True)
