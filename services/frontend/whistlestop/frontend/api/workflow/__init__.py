"""Workflow executions: start, update, signal, describe and the like; rules that apply to them; time skipping."""
