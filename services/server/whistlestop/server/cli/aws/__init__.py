"""Commands that deploy to AWS or delete what was deployed."""
