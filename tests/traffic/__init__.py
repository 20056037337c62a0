"""Compare, field by field, what two servers answered to the same test suite. See README.md."""
