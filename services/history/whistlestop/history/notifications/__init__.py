"""Notifications to sleeping workers."""
