"""The flags by which a server is told who may call. JWTs are a matter of the environment, as they are in functions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from whistlestop.server.cli.errors import CommandError

if TYPE_CHECKING:
    from whistlestop.frontend.auth.config import AuthConfig

ApiKeys = Annotated[
    str,
    typer.Option(
        "--api-keys",
        metavar="FILE",
        envvar="WHISTLESTOP_API_KEYS",
        help="The file that `whistlestop key` keeps; or ssm:NAME, secretsmanager:ARN. Callers need a key of it.",
    ),
]
AllowAnonymous = Annotated[
    bool,
    typer.Option(
        "--allow-anonymous",
        envvar="WHISTLESTOP_ALLOW_ANONYMOUS",
        help="Listen on an address that others reach, although nobody is asked who they are.",
    ),
]


def auth_config(api_keys: str) -> AuthConfig | None:
    """What the flag and the environment say; None when nobody is to be asked. Raises CommandError."""
    from whistlestop.common.doors.settings import BadSettings, CallerSettings, read
    from whistlestop.frontend.auth.config import BadAuth, of_settings

    try:
        config = replace(of_settings(read(CallerSettings)), keys=api_keys)
    except (BadAuth, BadSettings) as error:
        raise CommandError(str(error), 2) from error
    return config if config.configured else None
