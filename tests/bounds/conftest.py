"""The `backend` and the `store` of the tests of isolation, here as well."""

from __future__ import annotations

from tests.isolation.conftest import backend, store

__all__ = ["backend", "store"]
