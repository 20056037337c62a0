"""The flags by which a server is told who may call. JWTs are a matter of the environment, as they are in functions."""

from __future__ import annotations

from typing import Annotated

import typer

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
