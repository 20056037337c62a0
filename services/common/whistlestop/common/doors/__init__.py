"""What the doors have in common, whichever transport they stand in."""
