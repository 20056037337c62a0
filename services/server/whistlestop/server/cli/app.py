"""The tree of commands, and how each of them ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from whistlestop.server.cli.errors import CommandError, complain
from whistlestop.server.release import VERSION

# Depending on its version, typer bundles click or depends on it: find click's exception through typer.
_ClickException: type[Any] = typer.BadParameter.__bases__[0].__bases__[0]

app = typer.Typer(
    name="whistlestop",
    help="A durable-execution backend that speaks Temporal's API.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

GROUPS = {
    "server": ("whistlestop.server.cli.server", "Run the server."),
    "db": ("whistlestop.server.cli.db", "Manage the database."),
    "workflow": ("whistlestop.server.cli.workflow", "Inspect workflows."),
    "task-queue": ("whistlestop.server.cli.task_queue", "Inspect task queues."),
    "cluster": ("whistlestop.server.cli.cluster", "Inspect the cluster."),
    "key": ("whistlestop.server.cli.key", "Manage API keys."),
    "deploy": ("whistlestop.server.cli.aws.deploy", "Deploy the three functions to a cloud account."),
    "destroy": ("whistlestop.server.cli.aws.destroy", "Delete a deployed stack."),
    "config": ("whistlestop.server.cli.config", "Inspect the configuration."),
    "bridge": ("whistlestop.server.cli.bridge", "Serve gRPC next to a worker and forward calls over HTTP."),
}


def _print_version(value: bool) -> None:
    if value:
        print(f"whistlestop {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", "-v", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def _add_groups(arguments: list[str]) -> None:
    """Import the requested group, or all of them if that is unclear (help, a typing error)."""
    import importlib

    wanted = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name in [wanted] if wanted in GROUPS else GROUPS:
        module, text = GROUPS[name]
        app.add_typer(importlib.import_module(module).app, name=name, help=text)


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code.

    An error that the user can fix is printed, and is 1 or 2; any other exception is raised.
    """
    _add_groups(arguments)
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="whistlestop", standalone_mode=False)
    except _ClickException as error:
        message = str(error.format_message())
        if message.startswith("Usage:"):  # a group without a command prints help, which is no error
            print(message, file=sys.stderr)
        else:
            complain(message)
        return int(error.exit_code)
    except CommandError as error:
        complain(str(error))
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader (a pager, `head`) has exited; Python would report it again when flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0
