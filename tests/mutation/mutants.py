"""Small changes to the sources, of which each should make some test fail.

A mutant is named by its file and number, so that it can be made again. Texts (messages, SQL) and types are left alone; so
are logging and what only a type checker reads.
"""

from __future__ import annotations

import ast
import copy
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change."""

    file: str
    number: int
    line: int
    what: str
    _tree: ast.Module
    _way: tuple[int, ...]
    _change: Callable[[ast.AST], None]

    def source(self) -> str:
        """Return the whole file with it."""
        changed = copy.deepcopy(self._tree)
        target: ast.AST = changed
        for index in self._way:
            target = list(ast.iter_child_nodes(target))[index]
        self._change(target)
        return ast.unparse(ast.fix_missing_locations(changed))

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


def _places(tree: ast.Module) -> Iterator[tuple[list[int], ast.AST]]:
    """Each node that may be changed, with the way to it: positions among the children."""

    def walk(node: ast.AST, way: list[int]) -> Iterator[tuple[list[int], ast.AST]]:
        for index, child in enumerate(ast.iter_child_nodes(node)):
            if _is_left_alone(child):
                continue
            yield [*way, index], child
            yield from walk(child, [*way, index])

    yield from walk(tree, [])


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    called = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    return isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "log"


def _deletions(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    """A statement that is left out of its block."""
    body = getattr(node, "body", None)
    for index, each in enumerate(body if isinstance(body, list) else []):
        is_effect = isinstance(each, ast.Expr) and isinstance(each.value, (ast.Call, ast.Await))
        if (is_effect and not _is_left_alone(each)) or isinstance(each, (ast.AugAssign, ast.Delete, ast.Raise)):
            yield f"without `{ast.unparse(each).splitlines()[0][:60]}`", _replace_by_pass(index)


def _replace_by_pass(index: int) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        node.body[index] = ast.copy_location(ast.Pass(), node.body[index])  # type: ignore[attr-defined]

    return change


def mutants_of(file: str, text: str) -> list[Mutant]:
    """All of one file."""
    tree = ast.parse(text)
    found: list[Mutant] = []
    for way, node in _places(tree):
        if _is_annotation(tree, way):
            continue
        for what, change in (*_changes(node), *_deletions(node)):
            found.append(Mutant(file, len(found), getattr(node, "lineno", 0), what, tree, tuple(way), change))
    return found


def _is_annotation(tree: ast.Module, way: list[int]) -> bool:
    node: ast.AST = tree
    for index in way:
        child = list(ast.iter_child_nodes(node))[index]
        if child in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            return True
        node = child
    return False


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
