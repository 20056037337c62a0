"""The steps of an order, and what undoes them. Real ones would call other systems."""

from __future__ import annotations

from temporalio import activity
from temporalio.exceptions import ApplicationError

from order_saga.model import Order

FLAKY_ATTEMPTS = 2
"""The stock system is down for so many attempts: the server tries again, the workflow does not notice."""


@activity.defn
async def reserve_stock(order: Order) -> str:
    """Reserve the item."""
    attempt = activity.info().attempt
    if attempt <= FLAKY_ATTEMPTS:
        message = f"stock system is not there (attempt {attempt})"
        raise RuntimeError(message)
    return f"reservation-{order.order_id}"


@activity.defn
async def release_stock(order: Order) -> str:
    """Undo `reserve_stock`."""
    return f"released {order.item}"


@activity.defn
async def charge_card(order: Order) -> str:
    """Charge the customer's card."""
    return f"payment-{order.order_id}"


@activity.defn
async def refund_card(order: Order) -> str:
    """Undo `charge_card`."""
    return f"refunded {order.amount_cents} cents"


@activity.defn
async def ship(order: Order) -> str:
    """Send the parcel. A wrong address fails without a retry."""
    if order.destination == "Atlantis":
        message = f"no carrier goes to {order.destination}"
        raise ApplicationError(message, type="NoSuchDestination", non_retryable=True)
    return f"tracking-{order.order_id}"


ALL = [reserve_stock, release_stock, charge_card, refund_card, ship]
