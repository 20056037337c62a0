"""What the commands on a stack have in common: the options that name it, how a yes is had, and how an error is told."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.server.deploy.cloud import Cloud


@dataclass(frozen=True, slots=True)
class Stack:
    """Which stack, and whether what is to be done with it is asked for, or only said."""

    name: str
    region: str
    profile: str
    yes: bool
    dry_run: bool

    @property
    def cloud(self) -> Cloud:
        """The account and region that it is in."""
        from whistlestop.server.deploy.cloud import Cloud

        return Cloud(self.region, self.profile)

    def confirm(self, question: str) -> bool:
        """Whether to go on."""
        return self.yes or typer.confirm(question)


def _first(
    *,
    stack_name: Annotated[
        str, typer.Option("--stack-name", help="Of the CloudFormation stack; resources are named by it.")
    ] = "whistlestop",
    region: Annotated[
        str, typer.Option("--region", help="The AWS region.", show_default="by the environment or the profile")
    ] = "",
    profile: Annotated[str, typer.Option("--profile", envvar="AWS_PROFILE", help="Of the AWS credentials.")] = "",
) -> None:
    """The options that come before a command's own."""


def _last(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Those that come after them."""


def on_a_stack(command: Callable[..., None]) -> Callable[..., None]:
    """`command(stack, **own options)` as a command that has these options, too; DeployErrors become CommandErrors."""
    first, last = (inspect.signature(each, eval_str=True).parameters for each in (_first, _last))
    own = [*inspect.signature(command, eval_str=True).parameters.values()][1:]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        from whistlestop.server.deploy.settings import DeployError

        stack = Stack(*(given.pop(name) for name in (*first, *last)))
        try:
            command(stack, **given)
        except DeployError as error:
            raise _complaint(error) from error

    run.__signature__ = inspect.Signature([*first.values(), *own, *last.values()])  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {}
    return run


def _complaint(error: Exception) -> CommandError:
    """Its first line is the complaint; what more there is (failed events) has lines of its own, and is printed here."""
    first, _, rest = str(error).partition("\n")
    if rest:
        typer.echo(rest, err=True)
    return CommandError(first)
