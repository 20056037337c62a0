"""The filter of ListWorkers and CountWorkers.

Conditions `field op value` are joined by AND and OR, with parentheses. Text fields: =, !=, starts_with, not
starts_with, IS [NOT] NULL. Time fields (RFC 3339 or nanoseconds): =, !=, <, <=, >, >=, [NOT] BETWEEN x AND y, IS [NOT]
NULL. As in Temporal, text that can't be parsed is refused, while a condition that can't be evaluated (an unknown field)
matches no worker.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from temporalio.api.enums.v1 import common_pb2 as common_enums

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import invalid_argument
from whistlestop.common.messages.enum_names import enum_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.api.worker.v1 import message_pb2 as worker_pb

Condition: TypeAlias = "Callable[[worker_pb.WorkerHeartbeat], bool]"

_LONGEST = 10_000
MAX_CONDITIONS = 100
"""The maximum of conditions, each of which is evaluated for every worker."""
_SELECT = "select * from table1 where "
"""Temporal puts this in front of a filter before it parses it; positions in errors count from there."""

_DEEPEST = 100


class _SenselessError(Exception):
    """The condition can't be evaluated, so the worker does not match, whatever the other conditions are."""


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


_TOKENS = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\")|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<op><=|>=|!=|<>|=|<|>)|(?P<mark>[(),])|(?P<word>`[^`]+`|[A-Za-z_][A-Za-z0-9_.]*)|(?P<end>$))"
)


def _status(heartbeat: worker_pb.WorkerHeartbeat) -> str:
    name = enum_name(common_enums.WorkerStatus, heartbeat.status).removeprefix("WORKER_STATUS_")
    return name.title().replace("_", "")


_TEXT_FIELDS: dict[str, Callable[[worker_pb.WorkerHeartbeat], str]] = {
    "WorkerInstanceKey": lambda heartbeat: heartbeat.worker_instance_key,
    "WorkerIdentity": lambda heartbeat: heartbeat.worker_identity,
    "HostName": lambda heartbeat: heartbeat.host_info.host_name,
    "TaskQueue": lambda heartbeat: heartbeat.task_queue,
    "DeploymentName": lambda heartbeat: heartbeat.deployment_version.deployment_name,
    "BuildId": lambda heartbeat: heartbeat.deployment_version.build_id,
    "SdkName": lambda heartbeat: heartbeat.sdk_name,
    "SdkVersion": lambda heartbeat: heartbeat.sdk_version,
    "WorkerStatus": _status,
    "Status": _status,
    "status": _status,
}
_TimeField: TypeAlias = "Literal['start_time', 'heartbeat_time']"
_TIME_FIELDS: dict[str, _TimeField] = {"StartTime": "start_time", "HeartbeatTime": "heartbeat_time"}

_TEXT_OPS: dict[str, Callable[[str, str], bool]] = {
    "=": lambda have, want: have == want,
    "!=": lambda have, want: have != want,
    "starts_with": lambda have, want: have.startswith(want),
    "not starts_with": lambda have, want: not have.startswith(want),
}
_TIME_OPS: dict[str, Callable[[int, int], bool]] = {
    "=": lambda have, want: have == want,
    "!=": lambda have, want: have != want,
    "<": lambda have, want: have < want,
    "<=": lambda have, want: have <= want,
    ">": lambda have, want: have > want,
    ">=": lambda have, want: have >= want,
}


def matcher(query: str) -> Condition:
    """Compile the filter to a predicate; an empty filter matches all. Raise INVALID_ARGUMENT."""
    query = query.strip()
    if not query:
        return lambda _: True
    if query.lower().startswith(("where ", "select ")):
        raise invalid_argument(f"invalid filter: {query}")
    if len(query) > _LONGEST:
        raise invalid_argument(f"malformed query: longer than {_LONGEST} characters")
    condition = _Parser(query).parse()

    def matches(heartbeat: worker_pb.WorkerHeartbeat) -> bool:
        try:
            return condition(heartbeat)
        except _SenselessError:
            return False

    return matches


class _Parser:
    def __init__(self, query: str) -> None:
        self._query = query
        self._tokens: list[_Token] = []
        self._depth = 0
        self._conditions = 0
        at = 0
        while True:
            found = _TOKENS.match(query, at)
            if found is None:
                raise self._error(at)
            kind = found.lastgroup or ""
            self._tokens.append(_Token(kind, found.group(kind), found.start(kind)))
            at = found.end()
            if kind == "end":
                break
        self._tokens.reverse()

    def parse(self) -> Condition:
        condition = self._or()
        if self._tokens[-1].kind != "end":
            raise self._error(self._tokens[-1].at)
        return condition

    def _error(self, at: int) -> Exception:
        return invalid_argument(f"malformed query: syntax error at position {len(_SELECT) + at + 1}")

    def _next(self) -> _Token:
        return self._tokens.pop() if len(self._tokens) > 1 else self._tokens[-1]

    def _word(self, *words: str) -> bool:
        """Take the next tokens if they are these words; return whether they were."""
        upcoming = self._tokens[-1 : -len(words) - 1 : -1]
        if len(upcoming) < len(words) or any(
            token.kind != "word" or token.text.lower() != word for token, word in zip(upcoming, words, strict=True)
        ):
            return False
        del self._tokens[-len(words) :]
        return True

    def _or(self) -> Condition:
        condition = self._and()
        while self._word("or"):
            condition = _either(condition, self._and())
        return condition

    def _and(self) -> Condition:
        condition = self._one()
        while self._word("and"):
            condition = _both(condition, self._one())
        return condition

    def _one(self) -> Condition:
        token = self._next()
        if token.text == "(" and token.kind == "mark":
            self._depth += 1
            if self._depth > _DEEPEST:
                raise self._error(token.at)
            condition = self._or()
            self._depth -= 1
            closing = self._next()
            if closing.text != ")":
                raise self._error(closing.at)
            return condition
        if token.kind != "word":
            raise self._error(token.at)
        return self._comparison(token.text.strip("`"))

    def _comparison(self, field: str) -> Condition:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise invalid_argument(f"malformed query: more than {MAX_CONDITIONS} conditions")
        if self._word("is", "not", "null"):
            return _null(field, wanted=False)
        if self._word("is", "null"):
            return _null(field, wanted=True)
        for words, negated in ((("not", "between"), True), (("between",), False)):
            if self._word(*words):
                low = self._value()
                if not self._word("and"):
                    raise self._error(self._tokens[-1].at)
                return _between(field, low, self._value(), negated=negated)
        if self._word("not", "starts_with"):
            return _compare(field, "not starts_with", self._value())
        if self._word("starts_with"):
            return _compare(field, "starts_with", self._value())
        token = self._next()
        if token.kind != "op":
            raise self._error(token.at)
        return _compare(field, "!=" if token.text == "<>" else token.text, self._value())

    def _value(self) -> _Token:
        token = self._next()
        if token.kind not in {"text", "number"}:
            raise self._error(token.at)
        return token


def _either(left: Condition, right: Condition) -> Condition:
    return lambda heartbeat: left(heartbeat) or right(heartbeat)


def _both(left: Condition, right: Condition) -> Condition:
    return lambda heartbeat: left(heartbeat) and right(heartbeat)


def _senseless(_: worker_pb.WorkerHeartbeat) -> bool:
    raise _SenselessError


def _text_of(token: _Token) -> str:
    return re.sub(r"\\(.)|''", lambda found: found.group(1) or "'", token.text[1:-1])


def _instant(token: _Token) -> int | None:
    """Return the nanoseconds since the Unix epoch of a number or an RFC 3339 time; None for anything else."""
    if token.kind == "number":
        return int(float(token.text))
    try:
        moment = datetime.fromisoformat(_text_of(token))
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return int(moment.timestamp()) * SECOND_NS + moment.microsecond * 1000


def _compare(field: str, op: str, value: _Token) -> Condition:
    if (read := _TEXT_FIELDS.get(field)) is not None:
        test = _TEXT_OPS.get(op)
        want = _text_of(value) if value.kind == "text" else ""
        if test is None or not want:
            return _senseless
        return lambda heartbeat: test(read(heartbeat), want)
    name = _TIME_FIELDS.get(field)
    time_test, instant = _TIME_OPS.get(op), _instant(value)
    if name is None or time_test is None or instant is None:
        return _senseless
    return lambda heartbeat: time_test(_time_of(heartbeat, name), instant)


def _time_of(heartbeat: worker_pb.WorkerHeartbeat, name: _TimeField) -> int:
    moment = heartbeat.start_time if name == "start_time" else heartbeat.heartbeat_time
    return moment.seconds * SECOND_NS + moment.nanos


def _between(field: str, low: _Token, high: _Token, *, negated: bool) -> Condition:
    name, first, last = _TIME_FIELDS.get(field), _instant(low), _instant(high)
    if name is None or first is None or last is None:
        return _senseless
    return lambda heartbeat: heartbeat.HasField(name) and (first <= _time_of(heartbeat, name) <= last) != negated


def _null(field: str, *, wanted: bool) -> Condition:
    if (read := _TEXT_FIELDS.get(field)) is not None:
        return lambda heartbeat: (not read(heartbeat)) == wanted
    name = _TIME_FIELDS.get(field)
    if name is None:
        return _senseless
    return lambda heartbeat: heartbeat.HasField(name) != wanted
