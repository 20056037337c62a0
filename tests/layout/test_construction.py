"""Constructors only: an object is whole when it is built, and no other package assigns to its attributes."""

from __future__ import annotations

import pytest

from tests.layout.attribute_assignments import Tree, findings, whole_tree

ALLOWED = {
    "whistlestop.history.core.transition.run.Run": (
        "the working copy of one transition: deciding is writing into it, and it lives no longer than that"
    ),
    "whistlestop.matching.task_queue.queue.TaskQueue": (
        "who polls it, which every poll writes: it is state, not wiring, and a method for each would cost each poll"
    ),
    "whistlestop.matching.task_queue.queue.Waiter": "the entry of its deadline, which exists only after the waiter does",
    "whistlestop.storage.interface.Store": (
        "its notifications are of the function that uses it, which is built from the environment that has opened it"
    ),
}

OWNER = """
class Part:
    handlers: dict[str, int]

class Engine:
    def __init__(self) -> None:
        self.effects = None
        self.part = Part()

    @property
    def again(self) -> Engine: ...

async def made() -> Engine: ...
"""
HEADER = "from whistlestop.a.owner import Engine, made\n"


@pytest.mark.parametrize(
    ("source", "attribute"),
    [
        ("def wire(engine: Engine) -> None:\n    engine.effects = 1", "effects"),
        ("def wire(engine: Engine | None) -> None:\n    engine.effects += 1", "effects"),
        ("async def wire() -> None:\n    engine = await made()\n    engine.effects = 1", "effects"),
        ("def wire() -> None:\n    first, engine = 1, Engine()\n    first = engine.effects = 1", "effects"),
        ("def wire(engine: Engine) -> None:\n    engine.part.handlers['x'] = 1", "handlers"),
        ("def wire(engine: Engine) -> None:\n    del engine.again.effects", "effects"),
        ("def wire(engine: Engine) -> None:\n    setattr(engine, 'effects', 1)", "setattr"),
        (
            "class Service:\n    def __init__(self) -> None:\n        self.engine = Engine()\n        self.engine.effects = 1",
            "effects",
        ),
    ],
)
def test_an_assignment_from_another_package_is_found(source: str, attribute: str) -> None:
    tree = Tree({"whistlestop.a.owner": OWNER, "whistlestop.b.user": HEADER + source})
    assert {each.attribute for each in findings(tree)} == {attribute}


@pytest.mark.parametrize(
    "source",
    [
        "class Own(Engine):\n    def __init__(self) -> None:\n        self.effects = 1",
        "def use(engine: Engine) -> None:\n    effects = engine.effects",
        "def use(message: Message) -> None:\n    message.effects = 1",
    ],
)
def test_other_assignments_are_not(source: str) -> None:
    tree = Tree({"whistlestop.a.owner": OWNER, "whistlestop.b.user": HEADER + source})
    assert list(findings(tree)) == []


def test_no_package_assigns_to_objects_of_another() -> None:
    found = set(findings(whole_tree()))
    assert [each for each in sorted(found) if each.owner not in ALLOWED] == []
    assert {each.owner for each in found} == set(ALLOWED), "an exception that is not needed any more"
