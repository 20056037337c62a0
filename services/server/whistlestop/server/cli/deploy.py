"""`whistlestop deploy aws`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the hints
from typing import TYPE_CHECKING, Annotated

import typer

from whistlestop.server.cli.errors import CommandError
from whistlestop.server.cli.stack import Stack, on_a_stack

if TYPE_CHECKING:
    from collections.abc import Iterable

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar="WHISTLESTOP_DATABASE_URL",
        help="postgresql://… (kept in Systems Manager); or ssm:/name or secretsmanager:ARN, where it is kept.",
    ),
]
CreateDatabase = Annotated[
    str, typer.Option("--create-database", help="dsql, aurora-serverless or none.", show_default="none")
]
PlainUrl = Annotated[
    bool, typer.Option("--plain-url", help="Leave the URL, with its password, in the functions' environment.")
]


@app.callback()
def _group() -> None:
    """Keep `aws` a command of its own while it is the only one."""


@app.command()
@on_a_stack
def aws(
    stack: Stack,
    *,
    database_url: DatabaseUrl = "",
    create_database: CreateDatabase = "",
    plain_url: PlainUrl = False,
    database_ca: Annotated[
        str, typer.Option("--database-ca", metavar="FILE", help="PEM of who signs the database's certificate.")
    ] = "",
    database_user: Annotated[
        str, typer.Option("--database-user", help="Whom functions sign in as by IAM tokens (RDS, Aurora).")
    ] = "",
    client_cidr: Annotated[
        str, typer.Option("--client-cidr", help="For aurora-serverless: who may connect; everybody is 0.0.0.0/0.")
    ] = "",
    vpc_id: Annotated[str, typer.Option("--vpc-id", help="For aurora-serverless.")] = "",
    subnet_ids: Annotated[
        str, typer.Option("--subnet-ids", help="For aurora-serverless: two public ones or more, by commas.")
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
        str, typer.Option("--sweep-rate", help="As rate(15 minutes).", show_default="rate(15 minutes)")
    ] = "",
    alarm_topic: Annotated[str, typer.Option("--alarm-topic", help="ARN of an SNS topic for alarms.")] = "",
    log_retention: Annotated[
        int, typer.Option("--log-retention", min=0, help="Days that logs are kept.", show_default="14")
    ] = 0,
    metrics: Annotated[
        bool | None, typer.Option("--metrics/--no-metrics", help="Metrics for CloudWatch.", show_default="no")
    ] = None,
    tracing: Annotated[
        bool | None, typer.Option("--tracing/--no-tracing", help="Traces for X-Ray.", show_default="no")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", metavar="NAME=VALUE", help="Any other of the template's.")
    ] = None,
    bundles: Annotated[
        Path | None, typer.Option("--bundles", help="A folder with frontend.zip, …, instead of making them.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Registered when it is not there; empty: none.")
    ] = "default",
    migrate: Annotated[
        bool, typer.Option("--migrate/--no-migrate", help="Bring the schema up to this release's, from here.")
    ] = True,
) -> None:
    """Create the stack or update it: three functions, their queue and schedules, over a Postgres.

    What is not said stays as it is in a stack that is there.
    """
    from whistlestop.server.deploy import run
    from whistlestop.server.deploy.settings import Settings

    others = _pairs(parameter or ())
    if auth not in {"", "iam", "none"}:
        raise CommandError(f"--auth {auth} is none of iam, none", 2)
    settings = Settings(
        stack.name, database_url, create_database, plain_url, database_ca, database_user, client_cidr, vpc_id,
        subnet_ids, runtime, architecture, memory, auth, sweep_rate, alarm_topic, log_retention, metrics, tracing,
        others,
    )  # fmt: skip
    manner = run.Manner(print, stack.confirm, stack.dry_run, bundles, migrate, namespace)
    run.deploy(stack.cloud, settings, manner)


def _pairs(given: Iterable[str]) -> dict[str, str]:
    """Return `--parameter NAME=VALUE` as names and values. Raises CommandError for one without an equals sign."""
    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise CommandError(f"--parameter {each} is not NAME=VALUE", 2)
        found[name] = value
    return found
