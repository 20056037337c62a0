"""`whistlestop deploy aws`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.server.cli.aws.stack import Stack, on_a_stack
from whistlestop.server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

RETENTION_S = 72 * 3600
"""Retention of a namespace that the deployment registers."""

DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar="WHISTLESTOP_DATABASE_URL",
        help="postgresql://… (will be stored in Systems Manager), or ssm:/name or secretsmanager:ARN if stored there.",
    ),
]
CreateDatabase = Annotated[
    str, typer.Option("--create-database", help="dsql, aurora-serverless or none.", show_default="none")
]
Parameters = Annotated[
    list[str] | None, typer.Option("--parameter", metavar="NAME=VALUE", help="Any other parameter of the template.")
]
Bundles = Annotated[
    Path | None, typer.Option("--bundles", help="Folder with frontend.zip, …, instead of building them.")
]
PlainUrl = Annotated[
    bool, typer.Option("--plain-url", help="Leave the URL, with its password, in the functions' environment.")
]


@app.callback()
def _group() -> None:
    """Keep `aws` a command of its own while it is the only one."""


DynamicConfigFile = Annotated[
    str,
    typer.Option(
        "--dynamic-config-file", metavar="FILE", help="Dynamic configuration for the functions, in Temporal's YAML."
    ),
]


@app.command()
@on_a_stack
def aws(
    stack: Stack,
    *,
    database_url: DatabaseUrl = "",
    create_database: CreateDatabase = "",
    plain_url: PlainUrl = False,
    database_ca: Annotated[
        str, typer.Option("--database-ca", metavar="FILE", help="PEM file of the database's CAs.")
    ] = "",
    database_user: Annotated[str, typer.Option("--database-user", help="User for IAM tokens (RDS, Aurora).")] = "",
    client_cidr: Annotated[
        str, typer.Option("--client-cidr", help="For aurora-serverless: who may connect; 0.0.0.0/0 for anyone.")
    ] = "",
    vpc_id: Annotated[str, typer.Option("--vpc-id", help="For aurora-serverless.")] = "",
    subnet_ids: Annotated[
        str, typer.Option("--subnet-ids", help="For aurora-serverless: two or more public subnets, with commas.")
    ] = "",
    runtime: Annotated[
        str,
        typer.Option("--runtime", help="python3.11, 3.12 or 3.13.", show_default="this interpreter's, or python3.13"),
    ] = "",
    architecture: Annotated[str, typer.Option("--architecture", help="arm64 or x86_64.", show_default="arm64")] = "",
    memory: Annotated[int, typer.Option("--memory", min=0, help="MB for each function.", show_default="512")] = 0,
    auth: Annotated[
        str, typer.Option("--auth", help="iam (signed requests) or none (see API keys).", show_default="iam")
    ] = "",
    sweep_rate: Annotated[
        str, typer.Option("--sweep-rate", help="Such as rate(15 minutes).", show_default="rate(15 minutes)")
    ] = "",
    alarm_topic: Annotated[str, typer.Option("--alarm-topic", help="ARN of an SNS topic for alarms.")] = "",
    log_retention: Annotated[
        int, typer.Option("--log-retention", min=0, help="Days to keep logs.", show_default="14")
    ] = 0,
    metrics: Annotated[
        bool | None, typer.Option("--metrics/--no-metrics", help="Metrics for CloudWatch.", show_default="no")
    ] = None,
    tracing: Annotated[
        bool | None, typer.Option("--tracing/--no-tracing", help="Traces for X-Ray.", show_default="no")
    ] = None,
    dynamic_config_file: DynamicConfigFile = "",
    parameter: Parameters = None,
    bundles: Bundles = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Namespace to register if missing; empty: none.")
    ] = "default",
    migrate: Annotated[
        bool, typer.Option("--migrate/--no-migrate", help="Migrate the schema to this release, from this machine.")
    ] = True,
) -> None:
    """Create or update the stack: three functions, their queue and schedules, over a Postgres.

    Options you omit keep their current values in an existing stack. Raise CommandError.
    """
    from whistlestop.deploy import run
    from whistlestop.deploy.settings import Settings

    if auth not in {"", "iam", "none"}:
        raise CommandError(f"--auth {auth} is none of iam, none", 2)
    settings = Settings(
        stack.name, database_url, create_database, plain_url, database_ca, database_user, client_cidr, vpc_id,
        subnet_ids, runtime, architecture, memory, auth, sweep_rate, alarm_topic, log_retention, metrics, tracing,
        _document(dynamic_config_file), _pairs(parameter or ()),
    )  # fmt: skip
    prepare = prepare_database if migrate else None
    options = run.Options(print, stack.confirm, stack.dry_run, bundles, prepare, namespace)
    run.deploy(stack.cloud, settings, options)


def _document(path: str) -> str:
    """Return the file of dynamic configuration as JSON; empty without one. Raises CommandError."""
    if not path:
        return ""
    from whistlestop.common.dynamic_config import InvalidDynamicConfig
    from whistlestop.server.settings.dynamic_file import document_of

    try:
        return document_of(path)
    except InvalidDynamicConfig as error:
        raise CommandError(str(error), 2) from None


def _pairs(given: Iterable[str]) -> dict[str, str]:
    """Parse `--parameter NAME=VALUE`. Raises CommandError for one without an equals sign."""
    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise CommandError(f"--parameter {each} is not NAME=VALUE", 2)
        found[name] = value
    return found


def prepare_database(url: str, namespace: str) -> tuple[int, bool]:
    """Migrate the schema to this release, and register the namespace unless its name is empty or it exists.

    Return the number of applied migrations, and whether the namespace was registered. Raises DeployError.
    """
    import asyncio

    from whistlestop.deploy.settings import DeployError
    from whistlestop.server.config import without_password
    from whistlestop.storage.errors import StorageError

    try:
        return asyncio.run(_prepare(url, namespace))
    except StorageError as error:
        raise DeployError(f"the database {without_password(url)}: {error}") from error


async def _prepare(url: str, namespace: str) -> tuple[int, bool]:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    from whistlestop.deploy.settings import DeployError
    from whistlestop.server.cli.api_access import open_store, over_store

    async with open_store("", url) as (store, _):
        applied = len(await store.migrate())
    if not namespace:
        return applied, False
    async with over_store("", url) as api:
        request = rr.RegisterNamespaceRequest(namespace=namespace)
        request.workflow_execution_retention_period.seconds = RETENTION_S
        try:
            await api.call(WorkflowService.RegisterNamespace, request)
        except CommandError as error:
            if "ALREADY_EXISTS" in str(error):
                return applied, False
            raise DeployError(f"the namespace {namespace}: {error}") from error
    return applied, True
