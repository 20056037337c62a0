"""An order as a saga: each step that took place is undone, in reverse, when a later one fails for good."""
