"""Find assignments to attributes of objects whose class another package defines.

Types are inferred from annotations, constructors and what functions are declared to return, which is enough in a tree
that is type-checked strictly. Messages (protobuf) are values of others, and not looked at.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("services/*/whistlestop/**/*.py"), *ROOT.glob("storage/whistlestop/**/*.py")])
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Finding(NamedTuple):
    """An assignment: by which module, in which line, to which attribute of which class."""

    module: str
    line: int
    owner: str
    attribute: str


@dataclass
class Class:
    """What is known of one of our classes."""

    module: str
    bases: list[str] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    """The classes of attributes and properties, and what methods return, by name; only those that are ours."""


def module_name(path: Path) -> str:
    """Return the dotted name of a source file's module."""
    parts = path.with_suffix("").parts
    parts = parts[parts.index("whistlestop") :]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Tree:
    """All modules, their imports and their classes."""

    def __init__(self, sources: dict[str, str], packages: frozenset[str] = frozenset()) -> None:
        self.modules = {name: ast.parse(text) for name, text in sources.items()}
        self._packages = packages
        self.names = {name: self._names(name, tree) for name, tree in self.modules.items()}
        self.classes: dict[str, Class] = {}
        self.returns: dict[str, str] = {}
        for name, tree in self.modules.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    self.classes[f"{name}.{node.name}"] = Class(name)
        for name, tree in self.modules.items():
            self._declare(name, tree)

    def package(self, module: str) -> str:
        """Return the package that a module belongs to; a package belongs to itself."""
        return module if module in self._packages else module.rpartition(".")[0]

    def _names(self, module: str, tree: ast.Module) -> dict[str, str]:
        names: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
            elif isinstance(node, ast.Import):
                names |= {each.asname: each.name for each in node.names if each.asname}
        own = (node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef))
        return names | {node.name: f"{module}.{node.name}" for node in own}

    def _declare(self, module: str, tree: ast.Module) -> None:
        for node in tree.body:
            if isinstance(node, FUNCTIONS):
                self.returns[f"{module}.{node.name}"] = self.annotated(module, node.returns)
            elif isinstance(node, ast.ClassDef):
                known = self.classes[f"{module}.{node.name}"]
                known.bases = [self.annotated(module, base) for base in node.bases]
                for part in node.body:
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        known.attributes[part.target.id] = self.annotated(module, part.annotation)
                    elif isinstance(part, FUNCTIONS):
                        known.attributes[part.name] = self.annotated(module, part.returns)
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    if isinstance(part, FUNCTIONS) and part.name == "__init__":
                        self._declare_own(module, f"{module}.{node.name}", part)

    def _declare_own(self, module: str, owner: str, init: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        scope = Scope(self, module, owner, init)
        for node in ast.walk(init):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
                self.classes[owner].attributes.setdefault(node.target.attr, self.annotated(module, node.annotation))
            for target in targets:
                if (
                    isinstance(target, ast.Attribute)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == "self"
                ):
                    assert isinstance(node, ast.Assign)
                    self.classes[owner].attributes.setdefault(target.attr, scope.infer(node.value))

    def annotated(self, module: str, node: ast.expr | None) -> str:
        """Return the class of ours that an annotation names; empty for any other."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.BinOp):
            return self.annotated(module, node.left) or self.annotated(module, node.right)
        if isinstance(node, ast.Subscript):
            return self.annotated(module, node.value)
        name = self.qualified(module, node)
        return name if name in self.classes else ""

    def qualified(self, module: str, node: ast.expr | None) -> str:
        """Return the full name of what a name or a dotted name stands for in a module; empty if that is unknown."""
        if isinstance(node, ast.Name):
            return self.names[module].get(node.id, "")
        if isinstance(node, ast.Attribute):
            base = self.qualified(module, node.value)
            return f"{base}.{node.attr}" if base else ""
        return ""

    def member(self, owner: str, name: str) -> str:
        """Return the class of an attribute, or of what a method returns; empty if that is none of ours."""
        known = self.classes.get(owner)
        if known is None:
            return ""
        return known.attributes.get(name, "") or next(
            (found for base in known.bases if (found := self.member(base, name))), ""
        )


class Scope:
    """The classes of the variables of one function."""

    def __init__(self, tree: Tree, module: str, owner: str, function: ast.AST, outer: Scope | None = None) -> None:
        self._tree = tree
        self._module = module
        self.variables: dict[str, str] = {} if outer is None else dict(outer.variables)
        if isinstance(function, FUNCTIONS):
            arguments = function.args
            for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                self.variables[each.arg] = tree.annotated(module, each.annotation)
            if owner and arguments.args and arguments.args[0].arg == "self":
                self.variables["self"] = owner

    def learn(self, target: ast.expr, value: ast.expr | None, declared: str = "") -> None:
        """Note the classes of the variables that an assignment sets."""
        if isinstance(target, ast.Name) and value is not None:
            self.variables[target.id] = declared or self.infer(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for name, part in zip(target.elts, value.elts, strict=False):
                self.learn(name, part)

    def infer(self, node: ast.expr | None) -> str:
        """Return the class of an expression's value; empty if that is unknown, or none of ours."""
        tree = self._tree
        if isinstance(node, ast.Name):
            return self.variables.get(node.id, "")
        if isinstance(node, ast.Await):
            return self.infer(node.value)
        if isinstance(node, ast.NamedExpr):
            return self.infer(node.value)
        if isinstance(node, ast.IfExp):
            return self.infer(node.body) or self.infer(node.orelse)
        if isinstance(node, ast.BoolOp):
            return next((found for each in node.values if (found := self.infer(each))), "")
        if isinstance(node, ast.Attribute):
            owner = self.infer(node.value)
            return tree.member(owner, node.attr) if owner else ""
        if isinstance(node, ast.Call):
            name = tree.qualified(self._module, node.func)
            if name in tree.classes:
                return name
            if name in tree.returns:
                return tree.returns[name]
            return self.infer(node.func) if isinstance(node.func, ast.Attribute) else ""
        return ""


def findings(tree: Tree) -> Iterator[Finding]:
    """Yield the assignments to attributes (or items in them) of objects of another package's classes."""
    for module, parsed in tree.modules.items():
        yield from _in_body(tree, module, "", parsed, Scope(tree, module, "", parsed))


def _in_body(tree: Tree, module: str, owner: str, parent: ast.AST, scope: Scope) -> Iterator[Finding]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.ClassDef):
            yield from _in_body(tree, module, f"{module}.{node.name}", node, scope)
            continue
        if isinstance(node, FUNCTIONS):
            yield from _in_body(tree, module, owner, node, Scope(tree, module, owner, node, scope))
            continue
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
            targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
            value = None if isinstance(node, ast.Delete) else node.value
            for target in targets:
                declared = tree.annotated(module, node.annotation) if isinstance(node, ast.AnnAssign) else ""
                scope.learn(target, value, declared)
                yield from _to(tree, module, target, scope)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            yield from _assigned(tree, module, node.lineno, node.args[0], "setattr", scope)
        if isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                if isinstance(item.optional_vars, ast.Name):
                    scope.variables[item.optional_vars.id] = scope.infer(item.context_expr)
        yield from _in_body(tree, module, owner, node, scope)


def _to(tree: Tree, module: str, target: ast.expr, scope: Scope) -> Iterator[Finding]:
    if isinstance(target, ast.Tuple | ast.List):
        for each in target.elts:
            yield from _to(tree, module, each, scope)
        return
    while isinstance(target, ast.Subscript):
        target = target.value
    if isinstance(target, ast.Attribute) and not (isinstance(target.value, ast.Name) and target.value.id == "self"):
        yield from _assigned(tree, module, target.lineno, target.value, target.attr, scope)


def _assigned(tree: Tree, module: str, line: int, value: ast.expr, attribute: str, scope: Scope) -> Iterator[Finding]:
    owner = scope.infer(value)
    if owner and tree.package(tree.classes[owner].module) != tree.package(module):
        yield Finding(module, line, owner, attribute)


def whole_tree() -> Tree:
    """Return the tree of all our packages, without generated files."""
    packages = frozenset(module_name(path) for path in SOURCES if path.name == "__init__.py")
    sources = {module_name(path): path.read_text("utf-8") for path in SOURCES if not path.stem.endswith("_pb2")}
    return Tree(sources, packages)
