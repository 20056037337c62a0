"""What a function is told by its environment: typed, checked as a whole when an instance starts, and named here alone.

Handlers read it once and hand it on. What Lambda itself sets (AWS_REGION, …) is not in it; how callers are known,
servers take from here as well.

No pydantic, for a handler's cold start is mostly imports, and 25 ms of CPU are what we would pay for it: on top of a
handler, importing pydantic's TypeAdapter takes 31-37, its dataclasses 41-47, pydantic-settings 67-82 (six runs each).
pydantic-core alone takes 11-15, but leaves its schemas to be written by hand, which is no less than this parser.
"""

from __future__ import annotations

import os
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "WHISTLESTOP_"
DATABASE_FORMS = ("postgresql://", "postgres://", "ssm:", "secretsmanager:")
_LEVELS = ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_Made = TypeVar("_Made", bound="Settings")


class BadSettings(ValueError):
    """The environment can't be served: one line for each variable that is wrong."""


def _variable(default: Any, about: str, parse: Callable[[str], Any] = str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"about": about, "parse": parse, "secret": secret})


def _one_of(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return text

    return parse


def _begins(*starts: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not text.startswith(starts):
            raise ValueError(f"has to begin with {', '.join(starts)}")
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
    """The variable of a field is its name in capitals, after `WHISTLESTOP_`; an empty one is not set."""

    def problems(self) -> list[str]:
        """What does not fit together, a line each."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSettings(Settings):
    """Of all three."""

    log_level: str = _variable("INFO", "the least that is logged", _level)
    metrics: str = _variable("off", "`on`: metrics for CloudWatch", _one_of("on", "off"))
    tracing: str = _variable("PassThrough", "`Active`: traces for X-Ray", _one_of("Active", "PassThrough"))
    database_url: str = _variable(
        "", "`postgresql://…`, or `ssm:NAME` or `secretsmanager:ARN` that hold it", _begins(*DATABASE_FORMS),
        secret=True,
    )  # fmt: skip
    dsql_host: str = _variable("", "host of an Aurora DSQL cluster")
    database_host: str = _variable("", "host of an Aurora cluster, with the secret below")
    database_secret: str = _variable("", "ARN of the secret with `username` and `password`")
    database_user: str = _variable("", "a user of RDS or Aurora to sign in as by tokens of IAM, without a password")
    database_tls: str = _variable(
        "verify-full", "`sslmode` where the URL says none, and the database is not on this machine",
        _one_of("verify-full", "verify-ca", "require"),
    )  # fmt: skip
    database_ca: str = _variable(
        "", "who signs the database's certificate: a file, PEM, or `ssm:NAME` or `secretsmanager:ARN` that hold it; "
        "empty: whom the system trusts",
    )  # fmt: skip
    sqlite_path: str = _variable("", "a SQLite file, for tests")

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


# Without slots: of two bases only one may have any.
@dataclass(frozen=True, kw_only=True)
class CallerSettings(Settings):
    """How callers are known, to the frontend's function or to a server."""

    api_keys: str = _variable("", "`ssm:NAME`, `secretsmanager:ARN`, a file, or the document itself", secret=True)
    jwt_jwks_url: str = _variable("", "the issuer's keys", _begins("https://", "http://", "file://"))
    jwt_key: str = _variable("", "instead: one public key, or a shared secret", secret=True)
    jwt_key_file: str = _variable("", "a file with it")
    jwt_issuer: str = _variable("", "must stand in the token")
    jwt_audience: str = _variable("", "must stand in the token")
    jwt_permissions_claim: str = _variable("permissions", "the claim that lists permissions")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendSettings(CallerSettings, FunctionSettings):
    """Who may call, and where the other two are."""

    history_function: str = _variable("", "name or ARN of the history function")
    history_url: str = _variable("", "or its URL", _HTTP)
    matching_function: str = _variable("", "name or ARN of the matching function")
    matching_url: str = _variable("", "or its URL", _HTTP)
    auth_mode: str = _variable("", "`AWS_IAM`: AWS has checked callers' signatures", _one_of("AWS_IAM", "NONE"))
    allow_anonymous: bool = _variable(False, "everybody may do everything", _flag)
    time_skipping: bool = _variable(False, "workflows may skip time (tests)", _flag)


_ALLOW_OUTBOUND = "addresses, networks and hosts that callers' requests may go to although they are not public"


def _named(text: str) -> tuple[str, ...]:
    from whistlestop.common.outbound import Named

    entries = tuple(text.replace(",", " ").split())
    Named.parse(entries)
    return entries


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings(FunctionSettings):
    """Where matching is, and how the function is woken."""

    matching_function: str = _variable("", "name or ARN of the matching function")
    matching_url: str = _variable("", "or its URL", _HTTP)
    wake_queue_url: str = _variable("", "the queue of wakes; without it, timers fire by calls alone", _HTTP)
    wake_queue_arn: str = _variable("", "its ARN", _begins("arn:"))
    wake_schedule_group: str = _variable("", "group of one-time schedules")
    wake_role_arn: str = _variable("", "the role they send with", _begins("arn:"))
    worker_wake_prefix: str = _variable("", "how queues that wake idle workers begin")
    allow_outbound: tuple[str, ...] = _variable((), _ALLOW_OUTBOUND, _named)

    def problems(self) -> list[str]:
        """A queue without the rest can't be reached by a schedule."""
        found = FunctionSettings.problems(self)
        if self.wake_queue_url:
            for name in ("wake_queue_arn", "wake_schedule_group", "wake_role_arn"):
                if not getattr(self, name):
                    found.append(f"{PREFIX}{name.upper()}: needed with {PREFIX}WAKE_QUEUE_URL")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingSettings(FunctionSettings):
    """Where history is."""

    history_function: str = _variable("", "name or ARN of the history function")
    history_url: str = _variable("", "or its URL", _HTTP)
    worker_wake_prefix: str = _variable("", "how queues that wake idle workers begin")
    allow_outbound: tuple[str, ...] = _variable((), _ALLOW_OUTBOUND, _named)


BY_FUNCTION: dict[str, type[FunctionSettings]] = {
    "frontend": FrontendSettings, "history": HistorySettings, "matching": MatchingSettings,
}  # fmt: skip


def read(kind: type[_Made], environ: Mapping[str, str] = os.environ) -> _Made:
    """Raises BadSettings with all that is wrong; values stay out of it, since some are secret."""
    given: dict[str, Any] = {}
    problems = []
    for each in fields(kind):
        name = PREFIX + each.name.upper()
        if text := environ.get(name, ""):
            try:
                given[each.name] = each.metadata["parse"](text)
            except ValueError as error:
                problems.append(f"{name}: {error}")
                given[each.name] = text
    settings = kind(**given)
    if problems := [*problems, *settings.problems()]:
        raise BadSettings("\n".join(problems))
    return settings


def table() -> str:
    """Markdown of all variables, for the documentation."""
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
