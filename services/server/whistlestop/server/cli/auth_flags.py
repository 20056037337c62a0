"""Flags for the authentication of callers. JWTs are configured by the environment, as in functions."""

from __future__ import annotations

from typing import Annotated

import typer

ApiKeys = Annotated[
    str,
    typer.Option(
        "--api-keys",
        metavar="FILE",
        envvar="WHISTLESTOP_API_KEYS",
        help="File of API keys (see `whistlestop key`), or ssm:NAME, secretsmanager:ARN. Callers need one of them.",
    ),
]
AllowAnonymous = Annotated[
    bool,
    typer.Option(
        "--allow-anonymous",
        envvar="WHISTLESTOP_ALLOW_ANONYMOUS",
        help="Allow unauthenticated callers on an address that other machines can reach.",
    ),
]
