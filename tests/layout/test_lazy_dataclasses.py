"""The project's `dataclass` makes the classes that the standard one makes; only later."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import sys
from dataclasses import field
from typing import TYPE_CHECKING, Any

import pytest

from whistlestop.common import lazy_dataclasses

if TYPE_CHECKING:
    from collections.abc import Callable

Decorator = Any
lazy: Decorator = lazy_dataclasses.dataclass
standard: Decorator = dataclasses.dataclass
FLAGS = [
    {"frozen": frozen, "slots": slots, "kw_only": kw_only, "eq": eq}
    for frozen in (False, True) for slots in (False, True) for kw_only in (False, True) for eq in (False, True)
] + [{"slots": True, "frozen": False, "kw_only": False, "eq": True, "unsafe_hash": True}]  # fmt: skip


def simple(decorator: Decorator, flags: dict[str, bool]) -> Any:
    class Simple:
        """With every kind of field."""

        first: int
        second: str = "two"
        third: list[int] = field(default_factory=list)
        secret: str = field(default="hidden", repr=False)
        aside: int = field(default=0, compare=False)
        fixed: int = field(default=7, init=False)

        def total(self) -> int:
            return self.first + len(self.third)

    return decorator(**flags)(Simple)


def with_a_post_init(decorator: Decorator, flags: dict[str, bool]) -> Any:
    class Checked:
        number: int = 1

        def __post_init__(self) -> None:
            if self.number < 0:
                raise ValueError("negative")

        def __repr__(self) -> str:
            return "its own"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    if flags.get("unsafe_hash"):  # refused by the standard decorator beside a hash of the class's own
        Checked.__hash__ = None  # type: ignore[method-assign,assignment]
    return decorator(**flags)(Checked)


def derived(decorator: Decorator, flags: dict[str, bool]) -> Any:
    class Base:
        first: int = 1

    base = decorator(**flags)(Base)

    class Derived(base):  # type: ignore[misc,valid-type]
        second: int = 2

    return decorator(**flags)(Derived)


MAKERS = (simple, with_a_post_init, derived)
ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}), ((1,), {}), ((1,), {"second": "x"}), ((), {"first": 3, "third": [1]}), ((1, "x", [2], "s", 5), {}),
    ((), {"first": 1, "fixed": 8}), ((), {"nothing": 1}), ((), {"number": -1}), ((), {"number": 3}), ((), {"first": 1, "aside": 9}),
]  # fmt: skip


def outcome(act: Callable[[], Any]) -> str:
    """Return what an action ended with, as text without the module's names."""
    try:
        return repr(act())
    except Exception as error:  # noqa: BLE001 - compared as a whole
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "-".join(name for name, on in flags.items() if on))
@pytest.mark.parametrize("maker", MAKERS)
def test_a_class_is_as_the_standard_decorator_makes_it(maker: Any, flags: dict[str, bool]) -> None:
    ours, theirs = maker(lazy, flags), maker(standard, flags)
    assert [each.name for each in dataclasses.fields(ours)] == [each.name for each in dataclasses.fields(theirs)]
    for args, kwargs in ARGUMENTS:
        assert outcome(lambda: ours(*args, **kwargs)) == outcome(lambda: theirs(*args, **kwargs))  # noqa: B023
        try:
            one, other = ours(*args, **kwargs), theirs(*args, **kwargs)
        except (TypeError, ValueError):
            continue
        acts: list[Callable[[Any], Any]] = [
            dataclasses.asdict,
            lambda made: made == copy.copy(made),
            lambda made: made == copy.deepcopy(made),
            lambda made: made == dataclasses.replace(made),
            lambda made: made != 1,
            lambda made: hash(made) == hash(copy.copy(made)) if flags["eq"] else None,
            lambda made: setattr(made, dataclasses.fields(made)[0].name, 5),
            lambda made: delattr(made, dataclasses.fields(made)[0].name),
            lambda made: made,
        ]
        for act in acts:
            assert outcome(lambda: act(one)) == outcome(lambda: act(other))  # noqa: B023


@lazy_dataclasses.dataclass(frozen=True, slots=True)
class Pickled:
    """At the top of a module, so that it can be pickled."""

    first: int
    second: tuple[int, ...] = ()


def test_an_instance_is_pickled() -> None:
    assert pickle.loads(pickle.dumps(Pickled(1, (2,)))) == Pickled(1, (2,))


def test_a_method_is_compiled_at_its_first_call_and_no_more() -> None:
    made = simple(lazy, {"frozen": True, "slots": True})
    assert not hasattr(made.__init__, "__kwdefaults__") or "first" in made.__init__.__code__.co_name
    one = made(1)
    compiled = made.__init__
    assert one == made(1)
    assert made.__init__ is compiled
    assert compiled.__code__.co_varnames[:2] == ("self", "first")
    assert made.__repr__.__code__.co_name == "first"


def test_every_class_of_a_start_is_made_so() -> None:
    """The standard decorator compiles six methods for each class, called or not."""
    importlib.import_module("whistlestop.server.process")
    compiled = [
        each
        for name, module in sorted(sys.modules.items())
        if name.startswith("whistlestop.")
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == name and dataclasses.is_dataclass(each)
        and each.__dataclass_params__.init  # type: ignore[attr-defined]
    ]  # fmt: skip
    assert compiled == []
