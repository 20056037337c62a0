"""Environment variables of the functions: typed, and validated together when an instance starts.

Handlers read them once and pass them on. Variables that Lambda itself sets (AWS_REGION, …) are not among them.
Servers use the settings for authentication as well.

Why not pydantic: a handler's cold start is mostly imports, and it would cost 25 ms of CPU: on top of a handler,
importing pydantic's TypeAdapter takes 31-37 ms, its dataclasses 41-47, pydantic-settings 67-82 (six runs each).
pydantic-core alone takes 11-15 ms, but its schemas have to be written by hand, which is no less code than this
parser.
"""

from __future__ import annotations

import logging
import os
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

PREFIX = "WHISTLESTOP_"
DATABASE_FORMS = ("postgresql://", "postgres://", "ssm:", "secretsmanager:")
_LEVELS = ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_Made = TypeVar("_Made", bound="Settings")


class BadSettings(ValueError):
    """The environment is invalid: one line for each variable that is wrong."""


def _variable(
    default: Any, about: str, parse: Callable[[str], Any] = str, *, secret: bool = False, old_name: str = ""
) -> Any:
    metadata = {"about": about, "parse": parse, "secret": secret, "old_name": old_name}
    return field(default=default, repr=not secret, metadata=metadata)


def _one_of(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return text

    return parse


def _begins(*starts: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not text.startswith(starts):
            raise ValueError(f"must begin with {', '.join(starts)}")
        return text

    return parse


def _level(text: str) -> str:
    return _one_of(*_LEVELS)(text.upper())


def _flag(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError("expected true or false")
    return text.lower() in _TRUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Base class. A field's variable is its name in upper case after `WHISTLESTOP_`; empty counts as unset."""

    def problems(self) -> list[str]:
        """Return the inconsistencies between variables, one line each."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSettings(Settings):
    """Settings of all three functions."""

    log_level: str = _variable("INFO", "minimum level of log records", _level)
    metrics: str = _variable("off", "`on`: metrics for CloudWatch", _one_of("on", "off"))
    tracing: str = _variable("PassThrough", "`Active`: traces for X-Ray", _one_of("Active", "PassThrough"))
    database_url: str = _variable(
        "", "`postgresql://…`, or `ssm:NAME` or `secretsmanager:ARN` that contains it", _begins(*DATABASE_FORMS),
        secret=True,
    )  # fmt: skip
    dsql_host: str = _variable("", "host of an Aurora DSQL cluster")
    database_host: str = _variable("", "host of an Aurora cluster, with the secret below")
    database_secret: str = _variable("", "ARN of the secret with `username` and `password`")
    database_user: str = _variable("", "a user of RDS or Aurora to sign in as with IAM tokens, without a password")
    database_tls: str = _variable(
        "verify-full", "`sslmode` if the URL sets none and the database is not on this machine",
        _one_of("verify-full", "verify-ca", "require"),
    )  # fmt: skip
    database_ca: str = _variable(
        "", "CA certificates for the database: a file, PEM text, or `ssm:NAME` or `secretsmanager:ARN` that contains "
        "it; empty: the system's CAs",
    )  # fmt: skip
    sqlite_path: str = _variable("", "a SQLite file, for tests")
    dynamic_config: str = _variable("", "dynamic configuration in JSON, or `ssm:NAME` that contains it")

    def problems(self) -> list[str]:
        found = []
        if not (self.database_url or self.dsql_host or self.database_host or self.sqlite_path):
            found.append(f"{PREFIX}DATABASE_URL: no database is named")
        if self.database_host and not (self.database_secret or self.database_user):
            found.append(f"{PREFIX}DATABASE_SECRET: needed with {PREFIX}DATABASE_HOST, or {PREFIX}DATABASE_USER")
        found.extend(
            f"{PREFIX}{service}_FUNCTION: neither it nor {PREFIX}{service}_URL is set"
            for service in ("HISTORY", "MATCHING")
            if hasattr(self, f"{service.lower()}_function")
            and not (getattr(self, f"{service.lower()}_function") or getattr(self, f"{service.lower()}_url"))
        )
        return found


_HTTP = _begins("http://", "https://")


# Without slots: only one of two base classes may have them.
@dataclass(frozen=True, kw_only=True)
class CallerSettings(Settings):
    """How callers are authenticated by the frontend function or a server."""

    api_keys: str = _variable("", "`ssm:NAME`, `secretsmanager:ARN`, a file, or the document itself", secret=True)
    jwt_jwks_url: str = _variable("", "URL of the issuer's keys (JWKS)", _begins("https://", "http://", "file://"))
    jwt_key: str = _variable("", "instead of a URL: one public key, or a shared secret", secret=True)
    jwt_key_file: str = _variable("", "a file that contains the key")
    jwt_issuer: str = _variable("", "required issuer (`iss`) of a token")
    jwt_audience: str = _variable("", "required audience (`aud`) of a token")
    jwt_permissions_claim: str = _variable("permissions", "the claim that lists permissions")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendSettings(CallerSettings, FunctionSettings):
    """Settings of the frontend function: authentication, and where the other two functions are."""

    history_function: str = _variable("", "name or ARN of the history function")
    history_url: str = _variable("", "or its URL", _HTTP)
    matching_function: str = _variable("", "name or ARN of the matching function")
    matching_url: str = _variable("", "or its URL", _HTTP)
    auth_mode: str = _variable("", "`AWS_IAM`: AWS verifies callers' signatures", _one_of("AWS_IAM", "NONE"))
    allow_anonymous: bool = _variable(False, "allow every request without authentication", _flag)
    time_skipping: bool = _variable(False, "workflows may skip time (tests)", _flag)


_NOTIFICATION_QUEUES = "prefix of the queues to which notifications of workers may be sent"
_ALLOW_OUTBOUND = "non-public addresses, networks and hosts to which callers' requests may go"


def _named(text: str) -> tuple[str, ...]:
    from whistlestop.net.outbound import Named

    entries = tuple(text.replace(",", " ").split())
    Named.parse(entries)
    return entries


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings(FunctionSettings):
    """Settings of the history function: where matching is, and how timers invoke the function."""

    matching_function: str = _variable("", "name or ARN of the matching function")
    matching_url: str = _variable("", "or its URL", _HTTP)
    wake_up_queue_url: str = _variable(
        "", "URL of the wake-up queue; without it, timers fire only at calls", _HTTP, old_name="WAKE_QUEUE_URL"
    )
    wake_up_queue_arn: str = _variable("", "ARN of the wake-up queue", _begins("arn:"), old_name="WAKE_QUEUE_ARN")
    wake_up_schedule_group: str = _variable(
        "", "group of the one-time schedules that send wake-ups", old_name="WAKE_SCHEDULE_GROUP"
    )
    wake_up_role_arn: str = _variable(
        "", "role with which the schedules send", _begins("arn:"), old_name="WAKE_ROLE_ARN"
    )
    notification_queue_prefix: str = _variable("", _NOTIFICATION_QUEUES, old_name="WORKER_WAKE_PREFIX")
    allow_outbound: tuple[str, ...] = _variable((), _ALLOW_OUTBOUND, _named)

    def problems(self) -> list[str]:
        """Return inconsistencies, among them a wake-up queue without the settings for its schedules."""
        found = FunctionSettings.problems(self)
        if self.wake_up_queue_url:
            for name in ("wake_up_queue_arn", "wake_up_schedule_group", "wake_up_role_arn"):
                if not getattr(self, name):
                    found.append(f"{PREFIX}{name.upper()}: needed with {PREFIX}WAKE_UP_QUEUE_URL")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingSettings(FunctionSettings):
    """Settings of the matching function: where history is."""

    history_function: str = _variable("", "name or ARN of the history function")
    history_url: str = _variable("", "or its URL", _HTTP)
    notification_queue_prefix: str = _variable("", _NOTIFICATION_QUEUES, old_name="WORKER_WAKE_PREFIX")
    allow_outbound: tuple[str, ...] = _variable((), _ALLOW_OUTBOUND, _named)


BY_FUNCTION: dict[str, type[FunctionSettings]] = {
    "frontend": FrontendSettings, "history": HistorySettings, "matching": MatchingSettings,
}  # fmt: skip


def read(kind: type[_Made], environ: Mapping[str, str] = os.environ) -> _Made:
    """Read settings from the environment. A variable's name in release 0.1.0 is read as well, with a warning.

    Raises BadSettings with everything that is wrong; it does not quote values, since some are secret.
    """
    given: dict[str, Any] = {}
    problems = []
    for each in fields(kind):
        name = PREFIX + each.name.upper()
        if text := environ.get(name, "") or _under_old_name(name, each.metadata["old_name"], environ):
            try:
                given[each.name] = each.metadata["parse"](text)
            except ValueError as error:
                problems.append(f"{name}: {error}")
                given[each.name] = text
    settings = kind(**given)
    if problems := [*problems, *settings.problems()]:
        raise BadSettings("\n".join(problems))
    return settings


def _under_old_name(name: str, old_name: str, environ: Mapping[str, str]) -> str:
    text = environ.get(PREFIX + old_name, "") if old_name else ""
    if text:
        log.warning(
            "the environment variable %s%s is called %s now: the next release does not take the old name",
            PREFIX, old_name, name,
        )  # fmt: skip
    return text


def table() -> str:
    """Return a Markdown table of all variables, for the documentation."""
    functions: dict[str, list[str]] = {}
    rows: dict[str, str] = {}
    for function, kind in BY_FUNCTION.items():
        for each in fields(kind):
            functions.setdefault(each.name, []).append(function)
            default = str(cast("object", each.default)).lower() if isinstance(each.default, bool) else each.default
            rows[each.name] = f"{f'`{default}`' if default else ''} | {each.metadata['about']}"
    lines = ["| variable | functions | default | |", "|---|---|---|---|"]
    for name, row in rows.items():
        where = "all" if len(functions[name]) == len(BY_FUNCTION) else ", ".join(functions[name])
        lines.append(f"| `{PREFIX}{name.upper()}` | {where} | {row} |")
    return "\n".join(lines).replace("|  |", "| |")
