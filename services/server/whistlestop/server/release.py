"""The version of this release."""

from __future__ import annotations

VERSION = "0.2.0"
"""The same as in pyproject.toml (checked by a test); reading package metadata would slow a start by 10 ms."""
