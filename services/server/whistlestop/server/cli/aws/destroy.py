"""`whistlestop destroy aws`."""

from __future__ import annotations

from typing import Annotated

import typer

from whistlestop.server.cli.aws.stack import Stack, on_a_stack

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep `aws` a command of its own while it is the only one."""


@app.command()
@on_a_stack
def aws(
    stack: Stack,
    *,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete the DSQL cluster that the stack created.")
    ] = False,
) -> None:
    """Delete the stack. Your own database is not touched; one that the stack created is kept, or leaves a snapshot."""
    from whistlestop.deploy import run

    options = run.Options(print, stack.confirm, stack.dry_run)
    run.destroy(stack.cloud, stack.name, options, delete_data=delete_data)
