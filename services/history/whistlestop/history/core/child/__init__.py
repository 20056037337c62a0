"""Child workflows, from their parent's side."""
