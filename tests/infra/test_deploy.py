"""`whistlestop deploy aws` and `destroy aws` as a person runs them, against LocalStack."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from infra.localstack.server import REGION, running

from tests import postgres
from tests.infra.stack import Deployed, Stack
from tests.support.ports import free_port
from whistlestop.deploy.bundle import bundle, pack
from whistlestop.deploy.target import FUNCTIONS, here
from whistlestop.storage.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from infra.localstack.server import LocalStack

pytestmark = [pytest.mark.timeout(600)]

NAME = "trains"
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ACCOUNT = "000000000000"


@dataclass(slots=True)
class Person:
    """Somebody with credentials and no checkout."""

    server: LocalStack
    url: str
    bundles: Path
    """Made here, since making them takes the most of a deployment's time; the first one makes its own."""

    def run(self, *arguments: str, code: int = 0, **environ: str) -> str:
        """What the command printed, on either stream."""
        done = subprocess.run(
            [sys.executable, "-m", "whistlestop.server", *arguments],
            env={**os.environ, **self.server.client_environ, **environ}, cwd=self.server.log.parent,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def deploy(self, *arguments: str, code: int = 0) -> str:
        return self.run("deploy", "aws", "--stack-name", NAME, *arguments, code=code)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def person(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Person]:
    """With an empty database."""
    folder = tmp_path_factory.mktemp("deploy")
    async with contextlib.AsyncExitStack() as exits:
        url = await exits.enter_async_context(postgres.fresh_database())
        for function in FUNCTIONS:
            bundle(function, here(), folder / function)
            pack(folder / function, folder / f"{function}.zip")
        yield Person(exits.enter_context(running(free_port(), folder)), url, folder)


def test_a_dry_run_changes_nothing(person: Person) -> None:
    said = person.deploy("--database-url", person.url, "--dry-run")
    assert f"{ACCOUNT}, {REGION}" in said
    assert "Nothing was changed" in said
    assert person.url not in said
    stack = Stack(NAME, person.server)
    assert stack.client("cloudformation").list_stacks()["StackSummaries"] == []
    assert stack.client("s3").list_buckets()["Buckets"] == []


def test_the_reason_of_a_failed_resource_is_printed(person: Person) -> None:
    """A resource that can't be made: its name and the reason are told, and nothing of the stack stays."""
    parameters = ("--parameter", "LogLevel=LOUD")
    assert "LogLevel can't be LOUD: it is one of DEBUG" in person.deploy(
        "--database-url", person.url, *parameters, code=1
    )
    assert "the template has no parameter Wheels" in person.deploy(
        "--database-url", person.url, "--parameter", "Wheels=4", code=1
    )
    assert "a new stack needs a database" in person.deploy("--yes", code=1)


async def test_one_command_deploys(person: Person) -> None:
    """From an empty account and an empty database to an endpoint that serves."""
    said = person.deploy("--database-url", person.url, "--architecture", here().architecture, "--yes")
    stack = Stack(NAME, person.server)
    endpoint = stack.outputs["Endpoint"]
    assert f"Endpoint: {endpoint}" in said
    assert f"whistlestop bridge --target {endpoint} --sigv4 --region {REGION}" in said
    assert "a million transitions" in said
    assert person.url not in said
    assert [name for name, (_, physical_id) in stack.resources().items() if physical_id in {"", "unknown"}] == []
    variables = _variables(stack)
    assert variables["WHISTLESTOP_DATABASE_URL"] == f"ssm:/{NAME}/database-url"
    assert person.url not in json.dumps(variables)
    cloud = Deployed(person.server.log.parent, {}, endpoint=endpoint, port=person.server.port)
    assert await cloud.start("greeting")
    assert (await cloud.workflow_task()).workflow_execution.workflow_id == "greeting"


def test_the_same_again_changes_nothing(person: Person) -> None:
    """Bundles are named by what they hold: made another time, they are the same. What is not said stays."""
    before = Stack(NAME, person.server).outputs
    said = person.deploy("--bundles", str(person.bundles), "--yes")
    assert said.count("is there already") == 3
    assert "The schema: nothing to do" in said
    assert Stack(NAME, person.server).outputs == before


def test_an_update_keeps_parameters_that_are_not_given(person: Person) -> None:
    said = person.deploy("--bundles", str(person.bundles), "--memory", "640", "--sweep-rate", "rate(1 day)", "--yes")
    assert "Endpoint: " in said
    stack = Stack(NAME, person.server)
    found = stack.client("lambda").get_function_configuration(FunctionName=f"{NAME}-history")
    assert found["MemorySize"] == 640
    assert _variables(stack)["WHISTLESTOP_DATABASE_URL"] == f"ssm:/{NAME}/database-url"
    keys = [each["Key"] for each in stack.client("s3").list_objects_v2(Bucket=_bucket())["Contents"]]
    assert len(keys) == 3


async def test_destroy_takes_all_but_the_data(person: Person) -> None:
    said = person.run("destroy", "aws", "--stack-name", NAME, "--yes")
    assert "your database is not touched" in said
    stack = Stack(NAME, person.server)
    assert stack.client("lambda").list_functions()["Functions"] == []
    assert stack.client("ssm").describe_parameters()["Parameters"] == []
    assert stack.client("s3").list_objects_v2(Bucket=_bucket()).get("Contents", []) == []
    store = PostgresStore(person.url, pool_size=1)
    await store.open()
    assert await store.check(10) == []
    await store.close()


def _indented_block(page: str, heading: str) -> str:
    """Return the first block of commands below a heading of a page in docs."""
    section = (ROOT / "docs" / page).read_text("utf-8").partition(f"## {heading}\n")[2]
    found = re.search(r"(?:^    .+\n)+", section, re.MULTILINE)
    assert found, heading
    return textwrap.dedent(found[0])


def test_the_commands_of_the_deploy_page_work_as_they_stand(person: Person) -> None:
    """With the page's own AWS_REGION alone, a database of this test, and "y" where the command asks.

    Functions are made for this machine's architecture, since LocalStack runs them here.
    """
    said = []
    shell = f"""
        pip() {{ test "$*" = 'install whistlestop'; }}
        whistlestop() {{
            case $1 in
                deploy) command whistlestop "$@" --architecture {here().architecture} ;;
                *) command whistlestop "$@" ;;
            esac
        }}
    """
    for heading in ("2. Deploy", "Take it down"):
        script = _indented_block("deploy.md", heading).replace("postgresql://…", person.url)
        environ = {**os.environ, **person.server.client_environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        if heading == "2. Deploy":
            environ.pop("AWS_REGION", None)
        else:
            environ["AWS_REGION"] = "eu-central-1"
        environ.pop("AWS_DEFAULT_REGION", None)
        done = subprocess.run(
            ["sh", "-euc", shell + script], env=environ, input="y\n" * 3,
            cwd=person.server.log.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        said.append(done.stdout)
    assert "Nothing was changed (--dry-run)." in said[0]
    assert "Endpoint: " in said[0]
    assert "The stack whistlestop is gone" in said[1]


def test_destroying_a_missing_stack_is_an_error(person: Person) -> None:
    said = person.run("destroy", "aws", "--stack-name", "nothing", "--yes", code=1)
    assert said.splitlines()[-1] == f"Error: there is no stack nothing in {REGION} of the account {ACCOUNT}"


def test_failed_events_are_printed(person: Person) -> None:
    """The function's name is taken by another: CloudFormation rolls back, and the command says why."""
    stack = Stack("broken", person.server)
    stack.client("sqs").create_queue(QueueName="broken-wakes", Attributes={"VisibilityTimeout": "1"})
    said = person.run(
        "deploy", "aws", "--stack-name", "broken", "--database-url", person.url, "--plain-url", "--no-migrate", "--yes",
        "--architecture", here().architecture, "--bundles", str(person.bundles), code=1,
    )  # fmt: skip
    assert "What failed:" in said
    assert "WakeQueue (AWS::SQS::Queue)" in said


def _bucket() -> str:
    return f"whistlestop-deploy-{ACCOUNT}-{REGION}"


def _variables(stack: Stack) -> dict[str, Any]:
    found = stack.client("lambda").get_function_configuration(FunctionName=f"{stack.name}-history")
    variables: dict[str, Any] = found["Environment"]["Variables"]
    return variables
