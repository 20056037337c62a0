"""ResetWorkflowExecution."""

from __future__ import annotations
