"""Split a filter into tokens.

Errors carry a position. Clients print it, so it is counted as Temporal does: in bytes, within the statement `select *
from table1 where <filter>`, one past the end of the unexpected token.
"""

from __future__ import annotations

import re

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.storage.visibility.errors import MALFORMED, NOT_SUPPORTED, InvalidQuery

_STATEMENT = "select * from table1 "

MAX_LENGTH = 256 * 1024
"""The maximum characters of a filter: enough for six thousand workflow ids that are UUIDs."""

MAX_TOKENS = 100_000
"""More tokens than any filter within the limits on values and conditions has."""

# Words that structure a query and so can't be names. (Other words of SQL can, since nothing here confuses them.)
KEYWORDS = frozenset(
    {
        "and", "asc", "between", "binary", "by", "case", "default", "desc", "div", "escape", "exists", "false", "for",
        "group", "having", "if", "in", "interval", "is", "key", "like", "limit", "lock", "mod", "not", "null", "or",
        "order", "regexp", "rlike", "select", "starts_with", "true", "union", "when", "where",
    }
)  # fmt: skip

_PATTERN = re.compile(
    r"""
      (?P<blank>[ \t\r\n]+)
    | (?P<comment>(?:--|//|\#)[^\n]*\n?|/\*.*?\*/)
    | (?P<badcomment>/\*)
    | (?P<hex>[xX]'[0-9a-fA-F]*'|[bB]'[01]*')
    | (?P<name>[A-Za-z_@][A-Za-z_@0-9]*)
    | (?P<hexnum>0[xX][0-9a-fA-F]*+(?![A-Za-z_@]))
    | (?P<number>(?>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d*)?)(?![A-Za-z_@]))
    | (?P<badnumber>\d+(?:\.\d*)?)
    | (?P<string>'(?:[^'\\]++|''|\\.)*+'|"(?:[^"\\]++|""|\\.)*+")
    | (?P<badstring>['"].*)
    | (?P<quoted>`(?:[^`]++|``)++`)
    | (?P<nothing>``)
    | (?P<badquoted>`.*)
    | (?P<argument>\?|::?[A-Za-z_@][A-Za-z_@0-9.]*)
    | (?P<operator><=>|->>|->|<=|>=|<>|!=|<<|>>|&&|\|\||[-=<>!(),;+*/%^~&|.])
    | (?P<unknown>.)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_SKIPPED = frozenset({"blank", "comment"})
_FAULTS = frozenset({"badcomment", "badnumber", "badstring", "badquoted", "nothing", "unknown"})
_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}
_STRING_PARTS = {quote: re.compile(rf"\\(.)|{quote}({quote})", re.DOTALL) for quote in "'\""}
_SYNONYMS = {"&&": "and", "||": "or", "<>": "!=", "rlike": "regexp"}
_NEAR = frozenset({"keyword", "name", "string", "number", "hexnum", "hex", "argument"}) | _FAULTS


@dataclass(frozen=True, slots=True)
class Token:
    """A token. `kind` is the operator or keyword itself, or name, string, number, hex, hexnum, argument or end."""

    kind: str
    text: str
    end: int


class Tokens:
    """The tokens of one filter, with one token of look-ahead."""

    def __init__(self, query: str) -> None:
        lowered = query.lower()
        bare = not query or lowered.startswith(("order by", "group by"))
        self._sql = _STATEMENT + ("" if bare else "where ") + query
        self._start = len(self._sql) - len(query)
        self._tokens = self._scan()
        if len(query) > MAX_LENGTH:
            raise _too_long()
        self._at = 0

    def _scan(self) -> list[Token]:
        found = []
        arguments = 0
        for match in _PATTERN.finditer(self._sql, self._start):
            group = match.lastgroup or ""
            if group in _SKIPPED:
                continue
            if match.end() - match.start() > MAX_LENGTH:
                raise _too_long()
            kind, text = _classify(group, match[0])
            if text == "?":
                arguments += 1
                text = f":v{arguments}"
            found.append(Token(kind, text, match.end()))
            if kind in _FAULTS:
                return found
            if len(found) > MAX_TOKENS:
                raise InvalidQuery(f"{NOT_SUPPORTED}: more than {MAX_TOKENS} words")
        found.append(Token("end", "", len(self._sql)))
        return found

    @property
    def kind(self) -> str:
        """The kind of the next token."""
        return self._tokens[self._at].kind

    def next(self) -> Token:
        """Take the next token; the last one (`end`) can be taken again and again."""
        token = self._tokens[self._at]
        if self._at + 1 < len(self._tokens):
            self._at += 1
        return token

    def accept(self, kind: str) -> bool:
        """Take the next token if it is of that kind; return whether it was."""
        if self._tokens[self._at].kind != kind:
            return False
        self.next()
        return True

    def expect(self, kind: str) -> Token:
        """Take the next token, which must be of that kind. Raise InvalidQuery otherwise."""
        if self._tokens[self._at].kind != kind:
            raise self.error()
        return self.next()

    def error(self, problem: str = "syntax error") -> InvalidQuery:
        """Return the error for an unexpected next token."""
        token = self._tokens[self._at]
        near = ""
        if token.kind in _NEAR or token.kind in KEYWORDS:
            near = f" near '{token.text}'" if token.text else ""
        read = self._sql[: token.end]
        if token.kind == "unknown":  # of a multi-byte character, the first byte is the unexpected one
            read = f"{read[:-1]}?"
        position = len(read.encode("utf-8", "replace")) + 1
        return InvalidQuery(f"{MALFORMED}: {problem} at position {position}{near}")


def _too_long() -> InvalidQuery:
    return InvalidQuery(f"{NOT_SUPPORTED}: longer than {MAX_LENGTH} characters")


def _classify(group: str, text: str) -> tuple[str, str]:
    match group:
        case "name":
            lowered = text.lower()
            if lowered in KEYWORDS:
                return _SYNONYMS.get(lowered, lowered), lowered
            return "name", text
        case "operator":
            return _SYNONYMS.get(text, text), ""
        case "string":
            return "string", _unescape(text)
        case "quoted":
            return "name", text[1:-1].replace("``", "`")
        case "badstring" | "badquoted":
            return group, text[1:]
        case "nothing":
            return group, ""
        case "hex":
            return "hex", text[2:-1]
        case _:
            return group, text


def _unescape(quoted: str) -> str:
    """Return a string literal's value: a backslash escapes a character, a doubled quote stands for one."""
    quote, body = quoted[0], quoted[1:-1]
    if "\\" not in body and quote not in body:
        return body
    return _STRING_PARTS[quote].sub(lambda part: part[2] or _ESCAPES.get(part[1], part[1]), body)
