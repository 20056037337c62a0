"""The store on the standard library's sqlite3: WAL, one writer, group commit."""

from __future__ import annotations

from whistlestop.storage.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
