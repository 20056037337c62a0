"""`whistlestop destroy aws`."""

from __future__ import annotations

from typing import Annotated

import typer

from whistlestop.server.cli.deploy import DryRun, Profile, Region, StackName, Yes, asking, complaint

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep `aws` a command of its own while it is the only one."""


@app.command()
def aws(
    *,
    stack_name: StackName = "whistlestop",
    region: Region = "",
    profile: Profile = "",
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete the DSQL cluster that the stack created, too.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Delete the stack. A database of yours is not touched; one that the stack created stays or leaves a snapshot."""
    from whistlestop.server.deploy import run
    from whistlestop.server.deploy.cloud import Cloud
    from whistlestop.server.deploy.settings import DeployError

    try:
        manner = run.Manner(print, asking(yes=yes), dry_run)
        run.destroy(Cloud(region, profile), stack_name, manner, delete_data=delete_data)
    except DeployError as error:
        raise complaint(error) from error
