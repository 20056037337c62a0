"""Small changes to the sources, of which each should make some test fail.

A mutant is named by its file and number, so that it can be made again. What no test is to notice is left alone: texts
(messages, SQL), logging, what only a type checker reads, the size of caches, and how a data class is laid out.
"""

from __future__ import annotations

import ast
import copy
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


_Definition: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"
_LOGGERS = {"log", "_log"}
_NOT_NOTICED = {"dataclass", "lru_cache", "cache", "zip"}
"""Calls whose arguments are left alone where they are numbers and booleans: slots, sizes of caches, `strict`."""


@dataclass(frozen=True, slots=True)
class Function:
    """The lines of a function."""

    name: str
    first: int
    """Of its first decorator, if it has one."""
    body: int
    last: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a change is, for those who look for the tests that run it."""

    first: int
    last: int
    """Lines of the statement; of a compound statement, those of the expression that is changed."""
    function: Function | None
    """The outermost function around it."""
    names: frozenset[str]
    """What the statement binds, outside of functions."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change."""

    file: str
    number: int
    line: int
    what: str
    place: Place
    _tree: ast.Module
    _way: tuple[int, ...]
    _change: Callable[[ast.AST], None]

    def tree(self) -> ast.Module:
        """Return the whole file with it; its lines are numbered as before."""
        changed = copy.deepcopy(self._tree)
        target: ast.AST = changed
        for index in self._way:
            target = list(ast.iter_child_nodes(target))[index]
        self._change(target)
        return ast.fix_missing_locations(changed)

    def source(self) -> str:
        """Return the whole file with it, as text."""
        return ast.unparse(self.tree())

    def __str__(self) -> str:
        return f"{self.file}:{self.line} #{self.number}: {self.what}"


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    """What can be done to the node, and how it is done to a copy of it."""
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            if other := _COMPARED.get(type(operator)):
                yield f"{type(operator).__name__} to {other.__name__}", _set_operator(index, other)
    elif isinstance(node, ast.BoolOp):
        other_op = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{type(node.op).__name__} to {other_op.__name__}", lambda it: setattr(it, "op", other_op())
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield "condition negated", lambda it: setattr(it, "test", ast.UnaryOp(ast.Not(), it.test))  # type: ignore[attr-defined]
    elif isinstance(node, (ast.BinOp, ast.AugAssign)):
        if computed := _COMPUTED.get(type(node.op)):
            yield f"{type(node.op).__name__} to {computed.__name__}", lambda it: setattr(it, "op", computed())
    elif isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield f"{value} to {not value}", lambda it: setattr(it, "value", not value)
        elif isinstance(value, int):
            yield f"{value} to {value + 1}", lambda it: setattr(it, "value", value + 1)
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "returns None", lambda it: setattr(it, "value", ast.Constant(None))
    elif isinstance(node, ast.Continue):
        yield "break for continue", lambda it: setattr(it, "__class__", ast.Break)


def _set_operator(index: int, other: type[ast.cmpop]) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        node.ops[index] = other()  # type: ignore[attr-defined]

    return change


def _places(tree: ast.Module) -> Iterator[tuple[list[int], list[ast.AST]]]:
    """Each node that may be changed: the way to it (positions among the children), and all nodes on the way."""

    def walk(way: list[int], nodes: list[ast.AST]) -> Iterator[tuple[list[int], list[ast.AST]]]:
        parent = nodes[-1]
        for index, child in enumerate(ast.iter_child_nodes(parent)):
            if _is_left_alone(child, parent):
                continue
            found = [*way, index], [*nodes, child]
            yield found
            yield from walk(*found)

    yield from walk([], [tree])


def _is_left_alone(node: ast.AST, parent: ast.AST) -> bool:
    if node in (getattr(parent, "annotation", None), getattr(parent, "returns", None)):
        return True
    if _is_for_the_type_checker(node):
        return True
    if isinstance(node, ast.JoinedStr) and isinstance(parent, ast.Call) and _called(parent)[:1].isupper():
        return True  # the message of an error
    if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
        return isinstance(parent, ast.Call) and _called(parent) in _NOT_NOTICED
    return _is_logging(node)


def _is_for_the_type_checker(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.Call):
        return _called(node) == "cast"
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias"
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        # A method of a protocol.
        last = node.body[-1]
        return isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant) and last.value.value is ...
    return False


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _is_logging(node: ast.AST) -> bool:
    called = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    return isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id in _LOGGERS


_BLOCKS = ("body", "orelse", "finalbody")


def _deletions(node: ast.AST) -> Iterator[tuple[ast.stmt, str, Callable[[ast.AST], None]]]:
    """A statement that is left out of its block."""
    for block in _BLOCKS:
        statements = getattr(node, block, None)
        for index, each in enumerate(statements if isinstance(statements, list) else []):
            is_effect = isinstance(each, ast.Expr) and isinstance(each.value, (ast.Call, ast.Await))
            if (is_effect and not _is_logging(each)) or isinstance(each, (ast.AugAssign, ast.Delete, ast.Raise)):
                what = f"without `{ast.unparse(each).splitlines()[0][:60]}`"
                yield each, what, _replace_by_pass(block, index)


def _replace_by_pass(block: str, index: int) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        statements = getattr(node, block)
        statements[index] = ast.copy_location(ast.Pass(), statements[index])

    return change


def mutants_of(file: str, text: str) -> list[Mutant]:
    """All of one file."""
    tree = ast.parse(text)
    found: list[Mutant] = []
    for way, nodes in _places(tree):
        node = nodes[-1]
        changes = [(nodes, what, change) for what, change in _changes(node)]
        changes += [([*nodes, gone], what, change) for gone, what, change in _deletions(node)]
        for on_the_way, what, change in changes:
            place = _place(on_the_way)
            found.append(Mutant(file, len(found), place.first, what, place, tree, tuple(way), change))
    return found


def _place(nodes: list[ast.AST]) -> Place:
    """Where the last of these nodes is, each of which is in the one before."""
    statement = next(each for each in reversed(nodes) if isinstance(each, ast.stmt))
    shown = (
        _header(nodes[-1], statement) if hasattr(statement, "body") or isinstance(statement, ast.Match) else statement
    )
    function = next((each for each in nodes if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))), None)
    if function is not None and not _is_in_body(nodes, function):
        function = None
    outermost = None if function is None else _lines(function)
    last: int = getattr(shown, "end_lineno", None) or statement.lineno
    names = frozenset[str]() if function else frozenset(_bound(statement))
    return Place(getattr(shown, "lineno", statement.lineno), last, outermost, names)


def _header(node: ast.AST, statement: ast.stmt) -> ast.AST:
    """Return what is run of a compound statement when the node in its header is."""
    if node is statement:
        node = getattr(statement, "test", statement)
    return node if hasattr(node, "lineno") and node is not statement else ast.Pass(lineno=statement.lineno)


def _is_in_body(nodes: list[ast.AST], function: _Definition) -> bool:
    """Return whether the node is run when the function is called: its decorators and defaults are not."""
    index = nodes.index(function)
    return len(nodes) > index + 1 and nodes[index + 1] in function.body


def _lines(function: _Definition) -> Function:
    first = min([function.lineno, *(each.lineno for each in function.decorator_list)])
    return Function(function.name, first, function.body[0].lineno, function.end_lineno or function.lineno)


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
        return
    for each in ast.walk(statement):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id


def draw(home: Path, folder: str, count: int, seed: str) -> list[Mutant]:
    """So many of all the mutants of a folder, by chance that follows from the seed."""
    chance = random.Random(f"{seed} {folder}")
    sizes = {
        str(path.relative_to(home)): len(path.read_text())
        for path in sorted((home / folder).rglob("*.py"))
        if not path.name.endswith("_pb2.py") and path.name != "__init__.py"
    }
    # A file is drawn by its length, and then one of its mutants: so not all of a thousand files need be parsed.
    made: dict[str, list[Mutant]] = {}
    drawn: dict[tuple[str, int], Mutant] = {}
    for _ in range(50 * count):
        file = chance.choices(list(sizes), weights=list(sizes.values()))[0]
        if file not in made:
            made[file] = mutants_of(file, (home / file).read_text())
        if made[file]:
            mutant = chance.choice(made[file])
            drawn.setdefault((mutant.file, mutant.number), mutant)
        if len(drawn) == count:
            break
    return list(drawn.values())
