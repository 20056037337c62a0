"""Execution environments as processes, through the runtime interface client that Lambda's own runtimes use."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
from infra.localstack.environment import ensure
from infra.localstack.plugin.whistlestop_localstack.process import Code, Environment, StartFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., Environment]

pytestmark = [pytest.mark.timeout(600)]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Environments of a handler given as source."""
    made: list[Environment] = []

    def environment(source: str, **settings: Any) -> Environment:
        (tmp_path / "app.py").write_text(textwrap.dedent(source))
        python = str(ensure("runtime") / "python")
        made.append(Environment(Code(python, str(tmp_path), "app.handler", **settings), {"SHOWN": "yes"}))
        return made[-1]

    yield environment
    for each in made:
        each.stop()


def invoke(environment: Environment, event: object, request_id: str = "r") -> tuple[Any, bool]:
    answer = environment.invoke(
        {"invoke-id": request_id, "invoked-function-arn": "arn:aws:lambda:x:1:function:f", "payload": json.dumps(event)}
    )
    assert answer.request_id == request_id
    return json.loads(answer.payload), answer.is_error


def test_a_process_serves_one_invocation_after_the_other(make: Make) -> None:
    """It sees the variables that it is given, and none of this process's."""
    environment = make("""
        import os
        count = 0
        def handler(event, context):
            global count
            count += 1
            return [event, count, os.environ["SHOWN"], "PYTEST_CURRENT_TEST" in os.environ]
    """)
    environment.start()
    assert [invoke(environment, n, f"r{n}") for n in (1, 2)] == [([n, n, "yes", False], False) for n in (1, 2)]


def test_an_exception_is_an_answer(make: Make) -> None:
    environment = make("def handler(event, context): raise KeyError('lost')")
    environment.start()
    answer, is_error = invoke(environment, {})
    assert (is_error, answer["errorType"]) == (True, "KeyError")


def test_a_handler_that_cannot_be_imported(make: Make) -> None:
    environment = make("import no_such_module")
    with pytest.raises(StartFailed) as raised:
        environment.start()
    assert b"no_such_module" in raised.value.payload


def test_a_process_that_takes_too_long_is_killed_and_the_next_call_gets_a_new_one(make: Make) -> None:
    environment = make(
        """
        import time
        def handler(event, context):
            time.sleep(event)
            return 0 < context.get_remaining_time_in_millis() <= 1100
        """,
        timeout_s=1.0,
    )
    environment.start()
    answer, is_error = invoke(environment, 60)
    assert (is_error, answer["errorType"]) == (True, "Sandbox.Timedout")
    assert invoke(environment, 0) == (True, False)


@pytest.mark.parametrize(
    ("death", "said"), [("os._exit(3)", "exit status 3"), ("os.kill(os.getpid(), 9)", "signal: SIGKILL")]
)
def test_a_process_that_dies_of_a_call(make: Make, death: str, said: str) -> None:
    environment = make(f"import os\ndef handler(event, context): {death}")
    environment.start()
    answer, is_error = invoke(environment, {})
    assert is_error
    assert said in answer["errorMessage"]


def test_a_process_killed_between_calls_is_replaced(make: Make) -> None:
    environment = make("import os\ndef handler(event, context): return os.getpid()")
    environment.start()
    first, _ = invoke(environment, {})
    os.kill(first, signal.SIGKILL)
    while environment._process is not None and environment._process.poll() is None:
        time.sleep(0.01)
    second, is_error = invoke(environment, {})
    assert (first == second, is_error) == (False, False)


def test_clocks_can_be_set_ahead(make: Make, tmp_path: Path) -> None:
    """Deadlines go by the same clock."""
    (tmp_path / "ahead").write_text("3600")
    environment = make(
        """
        import time
        def handler(event, context):
            return [time.time(), context.get_remaining_time_in_millis()]
        """,
        clock_ahead_file=str(tmp_path / "ahead"), timeout_s=30.0,
    )  # fmt: skip
    environment.start()
    (now_s, left_ms), _ = invoke(environment, {})
    assert 3590 < now_s - time.time() < 3660
    assert 20_000 < left_ms <= 30_001
