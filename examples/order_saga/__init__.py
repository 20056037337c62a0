"""An order as a saga: when a step fails permanently, the completed steps are undone in reverse."""
