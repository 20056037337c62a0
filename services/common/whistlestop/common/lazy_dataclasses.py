"""A `dataclasses.dataclass` whose methods are generated when they are first called.

The standard decorator generates and compiles six methods for each class at import. With the hundred classes of a
process that is an eighth of the CPU time of a start, and most of the methods are never called. Here a method is
compiled by its first call, and then replaces the stub that compiled it.

Classes behave as with the standard decorator (`fields`, `replace`, `astuple`, pickling, frozen instances), as far as
this project uses it: no `InitVar`, no `order`, and explicit methods of the class are kept.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(  # noqa: ANN201 - type checkers read the standard decorator's
        cls: Any = None,
        /,
        *,
        frozen: bool = False,
        slots: bool = False,
        kw_only: bool = False,
        eq: bool = True,
        unsafe_hash: bool = False,
    ):
        """Make a class a dataclass, as the standard decorator of this name does."""

        def wrap(cls: type) -> Any:
            return _made(cls, frozen=frozen, slots=slots, kw_only=kw_only, eq=eq, unsafe_hash=unsafe_hash)

        return wrap if cls is None else wrap(cls)


__all__ = ["dataclass"]


def _made(cls: type, *, frozen: bool, slots: bool, kw_only: bool, eq: bool, unsafe_hash: bool) -> Any:
    own = set(vars(cls))
    if "__eq__" in own and vars(cls).get("__hash__") is None:
        own.discard("__hash__")  # set to None by Python, because the class defines __eq__
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
    _set_later(made, "__init__", _init, own)
    _set_later(made, "__repr__", _standard, own)
    if eq:
        _set_later(made, "__eq__", _standard, own)
        if frozen or unsafe_hash:
            _set_later(made, "__hash__", _standard, own)
        elif "__hash__" not in own:
            made.__hash__ = None  # Python's mark of an unhashable class
    if frozen:
        made.__setattr__ = _refuse_setting
        made.__delattr__ = _refuse_deleting
        if slots and "__getstate__" not in own:
            made.__getstate__ = _state
            made.__setstate__ = _set_state
    return made


def _set_later(cls: type, name: str, compiled: Any, own: set[str]) -> None:
    """Add a method that is compiled by its first call, unless the class defines it."""
    if name in own:
        return

    def first(self: Any, *args: Any, **kwargs: Any) -> Any:
        method = compiled(cls, name)
        method.__qualname__ = f"{cls.__qualname__}.{name}"
        setattr(cls, name, method)
        return method(self, *args, **kwargs)

    setattr(cls, name, first)


def _init(cls: Any, name: str) -> Any:
    """Generate the class's `__init__`. For a frozen class, it assigns through the slots themselves."""
    is_frozen = cls.__setattr__ is _refuse_setting
    given: list[str] = []
    named: list[str] = []
    lines: list[str] = []
    known: dict[str, Any] = {"_factory": _FACTORY, "_set": object.__setattr__}
    for field in dataclasses.fields(cls):
        each = field.name
        value = each
        if field.default is not dataclasses.MISSING:
            known[f"_default_{each}"] = field.default
            parameter = f"{each}=_default_{each}"
            value = each if field.init else f"_default_{each}"
        elif field.default_factory is not dataclasses.MISSING:
            known[f"_make_{each}"] = field.default_factory
            parameter = f"{each}=_factory"
            value = f"_make_{each}() if {each} is _factory else {each}" if field.init else f"_make_{each}()"
        elif field.init:
            parameter = each
        else:
            continue
        if field.init:
            (named if field.kw_only else given).append(parameter)
        slot = known[f"_slot_{each}"] = _slot(cls, each)
        if not is_frozen:
            lines.append(f" self.{each} = {value}")
        else:
            lines.append(f" _set(self, {each!r}, {value})" if slot is None else f" _slot_{each}(self, {value})")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    signature = ", ".join(["self", *given, *(["*", *named] if named else [])])
    exec(f"def __init__({signature}):\n" + "\n".join(lines or [" pass"]), known)  # noqa: S102 - of names in our sources
    return known[name]


def _slot(cls: type, name: str) -> Any:
    """Return the setter of a slot of the class; None if the field is not a slot."""
    for each in cls.__mro__:
        if name in vars(each):
            return vars(each)[name].__set__ if hasattr(vars(each)[name], "__set__") else None
    return None


_FACTORY = object()
"""Stands for an argument that was not given, whose value the field's factory makes."""


def _standard(cls: Any, name: str) -> Any:
    """Let the standard decorator generate a method, for a class with the same fields."""
    names = [each.name for each in dataclasses.fields(cls)]
    flags = {
        each.name: dataclasses.field(repr=each.repr, compare=each.compare, hash=each.hash)
        for each in dataclasses.fields(cls)
    }
    like = type(cls.__name__, (), {"__annotations__": dict.fromkeys(names, object), "__doc__": "", **flags})
    dataclasses.dataclass(
        init=False, repr=name == "__repr__", eq=name == "__eq__", unsafe_hash=name == "__hash__", match_args=False
    )(like)
    return vars(like)[name]


def _refuse_setting(self: Any, name: str, value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deleting(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)
