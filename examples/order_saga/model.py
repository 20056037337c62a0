"""Data exchanged between the order's client, workflow and activities."""

from __future__ import annotations

from dataclasses import dataclass, field

TASK_QUEUE = "orders"


@dataclass
class Order:
    """A customer's order."""

    order_id: str
    item: str
    amount_cents: int
    destination: str
    settlement_s: float = 4.0
    """How long the payment settles before anything is shipped: a durable timer."""


@dataclass
class Receipt:
    """The result of a successful order."""

    order_id: str
    approved_by: str
    tracking_number: str
    steps: list[str] = field(default_factory=list)


@dataclass
class Progress:
    """The result of the query `progress`."""

    stage: str
    steps: list[str] = field(default_factory=list)
