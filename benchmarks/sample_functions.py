"""Draw public functions at random, to judge what their signatures and docstrings say.

    python benchmarks/sample_functions.py [--number 60] [--seed TEXT]

The seed is the hash of the commit that is checked out, so that a draw can be repeated and nobody chooses it. A reader
then answers three questions for each function from what is printed alone: in which units are its numbers, which errors
does it raise, and what does it return or do when there is nothing? A question that does not apply is answered.

Public are functions and methods with at least one parameter, below `services` and `storage`, of whose name, class and
module none begins with an underscore. Generated files are left out, and so are functions within functions and the
variants of an overloaded function.
"""

import argparse
import ast
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SOURCES = ("services", "storage")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions() -> Iterator[tuple[str, str]]:
    """Yield the name (`path:line class.function`) and the text (signature and docstring) of every public function."""
    for folder in _SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts) or path.stem.endswith("_pb2"):
                continue
            yield from _of_file(path)


def draw(seed: str, number: int) -> Sequence[tuple[str, str]]:
    """Return `number` public functions (all, when there are fewer), the same ones for the same seed and sources."""
    found = list(public_functions())
    return random.Random(seed).sample(found, min(number, len(found)))  # noqa: S311 - no secret depends on it


def _of_file(path: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text())
    owners: list[tuple[str, Sequence[ast.stmt]]] = [("", tree.body)]
    owners += [(f"{c.name}.", c.body) for c in tree.body if isinstance(c, ast.ClassDef) and not c.name.startswith("_")]
    for owner, body in owners:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            if any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list):
                continue
            if _parameters(node, method=bool(owner)):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {owner}{node.name}", _text(node)


def _parameters(node: Function, *, method: bool) -> int:
    """Return the number of parameters without `self` and `cls`."""
    given = node.args
    count = sum(map(len, (given.posonlyargs, given.args, given.kwonlyargs))) + bool(given.vararg) + bool(given.kwarg)
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    return count - (method and not static)


def _text(node: Function) -> str:
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    said = ast.get_docstring(node) or "(no docstring)"
    indented = "\n".join(f"    {line}" for line in said.split("\n"))
    return f"{keyword} {node.name}({ast.unparse(node.args)}){returns}\n{indented}"


def main() -> None:
    """Print the drawn functions."""
    parser = argparse.ArgumentParser(description="Draw public functions, to judge their signatures and docstrings.")
    parser.add_argument("--number", type=int, default=60, help="how many (default: 60)")
    parser.add_argument("--seed", help="what the draw depends on (default: the hash of the commit)")
    given = parser.parse_args()
    seed = given.seed or subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()  # noqa: S607
    drawn = draw(seed, given.number)
    print(f"{len(drawn)} of {sum(1 for _ in public_functions())} public functions, seed {seed}")
    for number, (name, text) in enumerate(drawn, 1):
        print(f"\n{number}. {name}\n{text}")


if __name__ == "__main__":
    main()
