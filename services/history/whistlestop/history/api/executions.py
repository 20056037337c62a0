"""Describing, signalling, cancelling and terminating executions."""

from __future__ import annotations
