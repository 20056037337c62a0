"""Schedules: their times (spec), what is due and what becomes of overlaps (policy), and the shell (driver)."""
