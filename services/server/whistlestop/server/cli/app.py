"""The tree of commands, and how each of them ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from whistlestop.server.cli.errors import CommandError, complain
from whistlestop.server.release import VERSION

# typer carries click inside or beside it, by version: click's errors are reached through typer's own name.
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
    "db": ("whistlestop.server.cli.db", "Look after the database."),
    "workflow": ("whistlestop.server.cli.workflow", "Look at workflows."),
    "task-queue": ("whistlestop.server.cli.task_queue", "Look at task queues."),
    "cluster": ("whistlestop.server.cli.cluster", "Look at the cluster."),
    "key": ("whistlestop.server.cli.key", "Look after API keys."),
    "deploy": ("whistlestop.server.cli.deploy", "Put three functions into a cloud account."),
    "destroy": ("whistlestop.server.cli.destroy", "Take them out again."),
    "config": ("whistlestop.server.cli.config", "Look at the configuration."),
    "bridge": ("whistlestop.server.cli.bridge", "Serve gRPC beside a worker, over a target that speaks HTTP."),
}


def _print_version(value: bool) -> None:
    if value:
        print(f"whistlestop {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", "-v", help="Print the version and leave.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def _add_groups(arguments: list[str]) -> None:
    """Import the group that is asked for; all of them when it is not clear (help, a typing error)."""
    import importlib

    wanted = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name in [wanted] if wanted in GROUPS else GROUPS:
        module, text = GROUPS[name]
        app.add_typer(importlib.import_module(module).app, name=name, help=text)


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    _add_groups(arguments)
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="whistlestop", standalone_mode=False)
    except _ClickException as error:
        message = str(error.format_message())
        if message.startswith("Usage:"):  # a group without a command: help, not a complaint
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
        # The reader (a pager, `head`) has gone; Python would complain again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0
