"""Schedules: their times (spec), due times and overlaps (policy), and their execution (driver)."""
