"""Refuse clients that are too new for this server, or that do not support this server.

A client sends its name and version in the headers `client-name` and `client-version`, and the range of servers that
it supports in `supported-server-versions`. Clients that are not in the table may have any version, as in Temporal.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError, invalid_argument
from whistlestop.frontend.config import SERVER_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAME, VERSION, SERVERS, USER_AGENT = "client-name", "client-version", "supported-server-versions", "user-agent"
SUPPORTED = {
    "temporal-go": "<2.0.0",
    "temporal-java": "<2.0.0",
    "temporal-php": "<2.0.0",
    "temporal-typescript": "<2.0.0",
    "temporal-cli": "<2.0.0",
    "temporal-server": "<2.0.0",
    "temporal-ui": "<3.0.0",
    "Nexus-go-sdk": "<2.0.0",
}
_NUMBERS = ("major", "minor", "patch")
_IDENTIFIER = re.compile(r"[0-9A-Za-z-]+")
_TERM = re.compile(r"([<>=!]*) *([0-9][^ ]*)")
_MAX_CHARACTERS = 256

_Version = tuple[int, int, int, int, tuple[tuple[int, int, str], ...]]
_Range = list[list[tuple[str, _Version]]]
_COMPARE: dict[str, Callable[[_Version, _Version], bool]] = {
    "": lambda one, other: one == other,
    "=": lambda one, other: one == other,
    "==": lambda one, other: one == other,
    "!": lambda one, other: one != other,
    "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


def check(headers: Mapping[str, str]) -> None:
    """Raise ServiceError unless the client in these headers and this server support each other."""
    name, version, servers = headers.get(NAME, ""), headers.get(VERSION, ""), headers.get(SERVERS, "")
    if not servers and (not name or not version):
        return
    fault = _fault(name, version, servers)
    if fault is not None:
        raise fault()


def check_call(headers: Mapping[str, str]) -> None:
    """Raise ServiceError for a gRPC call as `check` does.

    If the client does not name itself, supported servers are not checked either.
    """
    name, version = headers.get(NAME), headers.get(VERSION)
    if name and version and (fault := _fault(name, version, headers.get(SERVERS, ""))) is not None:
        raise fault()


def check_nexus(headers: Mapping[str, str]) -> None:
    """Raise ServiceError for a Nexus request over HTTP as `check` does.

    The client is named by `user-agent`, as NAME/vVERSION.
    """
    agent = headers.get(USER_AGENT, "")
    if agent.count("/v") == 1:
        name, _, version = agent.partition("/v")
        headers = {NAME: name, VERSION: version, SERVERS: headers.get(SERVERS, "")}
    check(headers)


@lru_cache(maxsize=256)
def _fault(name: str, version: str, servers: str) -> Callable[[], ServiceError] | None:
    """Return a function that makes the error, or None if there is none. Cached, since few different clients connect."""
    if version and (supported := SUPPORTED.get(name)) is not None:
        try:
            good = _within(_parsed(version), _range(supported))
        except ValueError as error:
            text = f"Unable to parse client version: {error}"
            return lambda: invalid_argument(text)
        if not good:
            return lambda: _unsupported_client(name, version, supported)
    if not servers:
        return None
    try:
        good = _within(_parsed(SERVER_VERSION), _range(servers))
    except ValueError as error:
        text = f"Unable to parse supported server versions: {error}"
        return lambda: invalid_argument(text)
    return None if good else lambda: _unsupported_server(servers)


def _unsupported_client(name: str, version: str, supported: str) -> ServiceError:
    return ServiceError(
        Code.FAILED_PRECONDITION,
        f"Client version {version} is not supported. Server supports {name} versions: {supported}",
        details_pb.ClientVersionNotSupportedFailure(
            client_version=version, client_name=name, supported_versions=supported
        ),
    )


def _unsupported_server(servers: str) -> ServiceError:
    return ServiceError(
        Code.FAILED_PRECONDITION,
        f"Server version {SERVER_VERSION} is not supported. Client supports server versions: {servers}",
        details_pb.ServerVersionNotSupportedFailure(
            server_version=SERVER_VERSION, client_supported_server_versions=servers
        ),
    )


# ---- versions (semver.org) and ranges of them ------------------------------------------------------------------------


def _within(version: _Version, wanted: _Range) -> bool:
    return any(all(_COMPARE[sign](version, bound) for sign, bound in terms) for terms in wanted)


def _range(text: str) -> _Range:
    """Parse alternatives separated by `||`, each of terms such as `>=1.0.0` or `1.x`. Raises ValueError."""
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"a range has at most {_MAX_CHARACTERS} characters")
    found: _Range = []
    for alternative in text.split("||"):
        terms: list[tuple[str, _Version]] = []
        rest = alternative.strip()
        while rest:
            match = _TERM.match(rest)
            if match is None:
                raise ValueError(f"Could not get version from string: {_quoted(rest)}")
            terms += _bounds(match[1], match[2])
            rest = rest[match.end() :].lstrip()
        if not terms:
            raise ValueError("an alternative of the range is empty")
        found.append(terms)
    return found


def _bounds(sign: str, version: str) -> list[tuple[str, _Version]]:
    if sign not in _COMPARE:
        raise ValueError(f"Could not parse comparator {_quoted(sign)} in {_quoted(sign + version)}")
    numbers = version.split(".")
    if "x" not in numbers:
        return [(sign, _parsed(version))]
    known = numbers[: numbers.index("x")]
    if len(known) not in (1, 2) or set(numbers[len(known) :]) != {"x"} or not all(map(str.isdecimal, known)):
        raise ValueError(f"Could not parse version {_quoted(version)}: x stands for the last numbers")
    low = _parsed(".".join([*known, "0", "0"][:3]))
    high = _parsed(".".join([*known[:-1], str(int(known[-1]) + 1), "0", "0"][:3]))
    if sign in ("", "=", "=="):
        return [(">=", low), ("<", high)]
    if sign in ("!", "!="):
        raise ValueError(f"Could not parse version {_quoted(version)}: {sign} needs a whole version")
    return [{">": (">=", high), ">=": (">=", low), "<": ("<", low), "<=": ("<", high)}[sign]]


def _parsed(text: str) -> _Version:
    """Parse a version. Raises ValueError."""
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"a version has at most {_MAX_CHARACTERS} characters")
    if not text:
        raise ValueError("Version string empty")
    core, plus, build = text.partition("+")
    core, minus, before = core.partition("-")
    parts = core.split(".")
    if len(parts) < 3:
        raise ValueError("No Major.Minor.Patch elements found")
    parts = [*parts[:2], ".".join(parts[2:])]
    for which, part in zip(_NUMBERS, parts, strict=True):
        if not (part.isascii() and part.isdecimal()):
            raise ValueError(f"Invalid character(s) found in {which} number {_quoted(part)}")
        if part != "0" and part.startswith("0"):
            raise ValueError(f"{which.capitalize()} number must not contain leading zeroes {_quoted(part)}")
    labels = before.split(".") if minus else []
    for which, given in (("prerelease", labels), ("build meta data", build.split(".") if plus else [])):
        for part in given:
            if not _IDENTIFIER.fullmatch(part):
                raise ValueError(f"Invalid character(s) found in {which} {_quoted(part)}")
    order = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in labels)
    major, minor, patch = map(int, parts)
    return major, minor, patch, 0 if minus else 1, order


def _quoted(text: str) -> str:
    return f'"{text}"'
