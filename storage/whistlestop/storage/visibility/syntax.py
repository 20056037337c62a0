"""The grammar of the filter language: parse text into a tree of `Node`, without knowledge of attributes.

It is written by hand. sqlglot was measured first: importing it takes 75 to 90 ms of CPU in a function's start, which
has a budget of 350, and it accepts more than the language that clients know; nor could the text and position of a
syntax error, which clients print, be kept. This module imports in less than 10 ms, most of it for one regular
expression.

A node is named after the node type in Temporal's parser, because error messages contain that name.
"""

from __future__ import annotations

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.storage.visibility.errors import NOT_SUPPORTED, InvalidQuery
from whistlestop.storage.visibility.tokens import Token, Tokens

LITERAL = "*sqlparser.SQLVal"
BOOLEAN = "sqlparser.BoolVal"
NULL = "*sqlparser.NullVal"
NAME = "*sqlparser.ColName"
TUPLE = "sqlparser.ValTuple"
PAREN = "*sqlparser.ParenExpr"
COMPARISON = "*sqlparser.ComparisonExpr"
RANGE = "*sqlparser.RangeCond"
IS = "*sqlparser.IsExpr"
AND = "*sqlparser.AndExpr"
OR = "*sqlparser.OrExpr"
NOT = "*sqlparser.NotExpr"
FUNCTION = "*sqlparser.FuncExpr"
GROUP_CONCAT = "*sqlparser.GroupConcatExpr"
UNARY = "*sqlparser.UnaryExpr"
BINARY = "*sqlparser.BinaryExpr"
SUBQUERY = "*sqlparser.Subquery"

MAX_NESTING = 100
"""How deep parentheses and NOTs may be nested; half of what Temporal accepts, to stay within Python's stack."""

MAX_CONDITIONS = 5000
"""The maximum number of comparisons and similar conditions in a filter."""

_COMPARE = frozenset({"=", "<", ">", "<=", ">=", "!=", "<=>"})
_WORD_OPERATORS = frozenset({"in", "like", "regexp", "starts_with", "between"})
_ARITHMETIC = frozenset({"+", "-", "*", "/", "%", "^", "&", "|", "<<", ">>", "div", "mod", "->", "->>"})
_PREFIX = frozenset({"-", "+", "~", "!", "binary"})
_LITERALS = frozenset({"string", "number", "hex", "hexnum", "argument"})
_UNSUPPORTED = {"case": "*sqlparser.CaseExpr", "default": "*sqlparser.Default", "interval": "*sqlparser.IntervalExpr"}


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the tree. `text` is the operator, name or literal; `quoted` marks a literal that was a string."""

    kind: str
    text: str = ""
    items: tuple[Node, ...] = ()
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """A whole filter as it was written."""

    where: Node | None
    group_by: tuple[Node, ...]
    order_by: tuple[tuple[Node, bool], ...]
    """Each with True for descending."""
    limited: bool


def parse_statement(query: str) -> Statement:
    """Parse a filter. Raise InvalidQuery with the position of the first unexpected token."""
    return _Parser(Tokens(query.strip())).statement()


def conditions_of(query: str) -> int:
    """Return the number of conditions in a filter; 0 when it can't be parsed."""
    try:
        parser = _Parser(Tokens(query.strip()))
        parser.statement()
    except InvalidQuery:
        return 0
    return parser.conditions


class _Parser:
    """A parser by precedence climbing."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._depth = 0
        self.conditions = 0

    def statement(self) -> Statement:
        tokens = self._tokens
        where = None if tokens.kind in ("end", "group", "order") else self._expression(1)
        group_by: list[Node] = []
        order_by: list[tuple[Node, bool]] = []
        if tokens.accept("group"):
            tokens.expect("by")
            group_by.append(self._expression(1))
            while tokens.accept(","):
                group_by.append(self._expression(1))
        if tokens.kind == "having":
            raise InvalidQuery(f"{NOT_SUPPORTED}: 'HAVING' clause")
        if tokens.accept("order"):
            tokens.expect("by")
            order_by.append(self._order())
            while tokens.accept(","):
                order_by.append(self._order())
        limited = tokens.accept("limit")
        if limited:
            self._expression(1)
            if tokens.accept(",") or (tokens.kind == "name" and tokens.next().text.lower() == "offset"):
                self._expression(1)
        tokens.accept(";")
        tokens.expect("end")
        return Statement(where, tuple(group_by), tuple(order_by), limited)

    def _order(self) -> tuple[Node, bool]:
        by = self._expression(1)
        descending = self._tokens.accept("desc")
        if not descending:
            self._tokens.accept("asc")
        return by, descending

    def _expression(self, binding: int) -> Node:
        """Parse an expression whose operators bind at least as tightly: OR 1, AND 2, the operand of NOT 3."""
        tokens = self._tokens
        if tokens.kind == "not":
            self._deeper()
            tokens.next()
            left = Node(NOT, items=(self._expression(3),))
            self._depth -= 1
        else:
            left = self._condition()
        while True:
            kind = tokens.kind
            if kind == "is":
                left = Node(IS, self._is_suffix(), (left,))
            elif kind == "and" and binding <= 2:
                items = [left]
                while tokens.accept("and"):
                    items.append(self._expression(3))
                left = Node(AND, items=tuple(items))
            elif kind == "or" and binding <= 1:
                items = [left]
                while tokens.accept("or"):
                    items.append(self._expression(2))
                left = Node(OR, items=tuple(items))
            else:
                return left

    def _count(self) -> None:
        """Count one more condition. Raise InvalidQuery when there are too many."""
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            raise InvalidQuery(f"{NOT_SUPPORTED}: more than {MAX_CONDITIONS} conditions")

    def _is_suffix(self) -> str:
        self._count()
        tokens = self._tokens
        tokens.next()
        negated = "not " if tokens.accept("not") else ""
        if tokens.kind not in ("null", "true", "false"):
            raise tokens.error()
        return f"is {negated}{tokens.next().kind}"

    def _condition(self) -> Node:
        tokens = self._tokens
        if tokens.kind == "exists":
            raise InvalidQuery(f"{NOT_SUPPORTED}: expression of type *sqlparser.ExistsExpr")
        left = self._operand()
        if tokens.kind in _COMPARE:
            self._count()
            operator = tokens.next().kind
            return Node(COMPARISON, operator, (left, self._operand()))
        negated = "not " if tokens.accept("not") else ""
        operator = tokens.kind
        if operator not in _WORD_OPERATORS:
            if negated:
                raise tokens.error()
            return left
        self._count()
        tokens.next()
        if operator == "between":
            low = self._operand()
            tokens.expect("and")
            return Node(RANGE, f"{negated}between", (left, low, self._operand()))
        if operator == "in":
            if tokens.kind != "(":
                raise tokens.error()
            right = self._parenthesised()
            right = Node(TUPLE, items=right.items) if right.kind == PAREN else right
        else:
            right = self._operand()
            if operator == "like" and tokens.accept("escape"):
                self._operand()
        return Node(COMPARISON, f"{negated}{operator}", (left, right))

    def _operand(self) -> Node:
        """Parse a value, possibly with arithmetic. No attribute accepts arithmetic, so only its presence is kept."""
        tokens = self._tokens
        signs = []
        while tokens.kind in _PREFIX:
            signs.append(tokens.next().kind)
        node = self._parenthesised() if tokens.kind == "(" else self._primary(tokens)
        for sign in reversed(signs):
            node = _signed(sign, node)
        while tokens.kind in _ARITHMETIC:
            tokens.next()
            while tokens.kind in _PREFIX:
                tokens.next()
            right = self._parenthesised() if tokens.kind == "(" else self._primary(tokens)
            node = Node(BINARY, items=(node, right))
        return node

    def _parenthesised(self) -> Node:
        tokens = self._tokens
        self._deeper()
        tokens.next()
        if tokens.kind == "select":
            return self._subquery()
        items = [self._expression(1)]
        while tokens.accept(","):
            items.append(self._expression(1))
        tokens.expect(")")
        self._depth -= 1
        return Node(PAREN if len(items) == 1 else TUPLE, items=tuple(items))

    def _subquery(self) -> Node:
        """Skip a subquery, which is refused whatever it contains."""
        open_parens = 1
        while open_parens:
            token = self._tokens.next()
            open_parens += {"(": 1, ")": -1}.get(token.kind, 0)
            if token.kind == "end":
                raise self._tokens.error()
        self._depth -= 1
        return Node(SUBQUERY)

    def _primary(self, tokens: Tokens) -> Node:
        kind = tokens.kind
        if kind in _LITERALS:
            token = tokens.next()
            return Node(LITERAL, token.text, quoted=kind == "string")
        if kind in ("true", "false"):
            return Node(BOOLEAN, tokens.next().kind)
        if kind == "null":
            tokens.next()
            return Node(NULL)
        if kind == "name":
            return self._name(tokens.next())
        if kind in _UNSUPPORTED:
            raise InvalidQuery(f"{NOT_SUPPORTED}: expression of type {_UNSUPPORTED[kind]}")
        raise tokens.error()

    def _name(self, token: Token) -> Node:
        tokens = self._tokens
        if tokens.kind == "(":
            self._arguments()
            return Node(GROUP_CONCAT if token.text.lower() == "group_concat" else FUNCTION, token.text)
        name = token.text
        for _ in range(2):
            if not tokens.accept("."):
                break
            if tokens.kind != "name" and not tokens.kind.isalpha():
                raise tokens.error()
            name = f"{name}.{tokens.next().text}"
        return Node(NAME, name)

    def _arguments(self) -> None:
        tokens = self._tokens
        self._deeper()
        tokens.next()
        if not tokens.accept(")"):
            while True:
                if not tokens.accept("*"):
                    self._expression(1)
                if not tokens.accept(","):
                    break
            tokens.expect(")")
        self._depth -= 1

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth >= MAX_NESTING:
            raise self._tokens.error("max nesting level reached")


def _signed(sign: str, node: Node) -> Node:
    is_number = node.kind == LITERAL and not node.quoted and node.text[:1] in "-.0123456789"
    if not is_number or sign not in ("-", "+"):
        return Node(UNARY, sign, (node,))
    if sign == "+":
        return node
    text = node.text.removeprefix("-") if node.text.startswith("-") else f"-{node.text}"
    return Node(LITERAL, text)
