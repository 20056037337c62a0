"""Every command family, so that `completion.HANDLERS` is full once this module is imported."""

from whistlestop.history.core import activity, close

__all__ = ["activity", "close"]
