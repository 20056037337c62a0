"""Code shared by commands on a stack: the options that name it, confirmation, and errors."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.deploy.cloud import Cloud


@dataclass(frozen=True, slots=True)
class Stack:
    """The options that name a stack, and whether to confirm or only show what would be done."""

    name: str
    region: str
    profile: str
    yes: bool
    dry_run: bool

    @property
    def cloud(self) -> Cloud:
        """The account and region of the stack."""
        from whistlestop.deploy.cloud import Cloud

        return Cloud(self.region, self.profile)

    def confirm(self, question: str) -> bool:
        """Ask whether to proceed, unless --yes was given, and return the answer."""
        return self.yes or typer.confirm(question)


def _first(
    *,
    stack_name: Annotated[
        str, typer.Option("--stack-name", help="Name of the CloudFormation stack, and prefix of its resources.")
    ] = "whistlestop",
    region: Annotated[
        str, typer.Option("--region", help="The AWS region.", show_default="by the environment or the profile")
    ] = "",
    profile: Annotated[str, typer.Option("--profile", envvar="AWS_PROFILE", help="AWS profile to use.")] = "",
) -> None:
    """Hold the options that come before a command's own."""


def _last(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
) -> None:
    """Hold the options that come after a command's own."""


def on_a_stack(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command(stack, **own options)` as a command that also has these options.

    DeployErrors become CommandErrors.
    """
    first, last = (inspect.signature(each, eval_str=True).parameters for each in (_first, _last))
    own = [*inspect.signature(command, eval_str=True).parameters.values()][1:]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        from whistlestop.deploy.settings import DeployError

        stack = Stack(*(given.pop(name) for name in (*first, *last)))
        try:
            command(stack, **given)
        except DeployError as error:
            raise _complaint(error) from error

    run.__signature__ = inspect.Signature([*first.values(), *own, *last.values()])  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {}
    return run


def _complaint(error: Exception) -> CommandError:
    """Return a CommandError with the first line of the error, after printing the other lines (failed events)."""
    first, _, rest = str(error).partition("\n")
    if rest:
        typer.echo(rest, err=True)
    return CommandError(first)
